"""One mesh with axes (data, fsdp, tensor) and the rules that place parameters on it.

Batches are split over data and fsdp together, and so is every activation: `constrain` says it where
the compiler would else gather rows. Parameters and optimiser state are split over fsdp (gathered
layer by layer) and tensor (never gathered). One device is a mesh of one.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))
# What a widening layer gives, [rows, tokens, features]. It is said around attention: where heads do
# not divide a compiler would else split these layers as attention is, and gather their kernels.
FEATURES = P(*BATCH, None, "tensor")

# (path of a parameter, spec), first match wins. Kernels are [inputs, outputs]. Layers that
# widen are split over outputs and those that narrow over inputs, so that one sum over the
# tensor axis per attention and per MLP is all the communication. A LoRA pair is a = [inputs,
# rank] and b = [rank, outputs]. The moments of an optimiser end in the path of their parameter.
RULES: tuple[tuple[str, P], ...] = (
    (r"embedding$", P(("tensor", "fsdp"), None)),
    (r"\b(q|k|v|qkv|gate|up|head)/kernel$", P("fsdp", "tensor")),
    (r"\b(o|down)/kernel$", P("tensor", "fsdp")),
    (r"\b(q|k|v|qkv|gate|up)/bias$", P("tensor")),
    (r"\b(q|k|v|qkv|gate|up|head)/a$", P("fsdp", None)),
    (r"\b(q|k|v|qkv|gate|up|head)/b$", P(None, "tensor")),
    (r"\b(o|down)/a$", P("tensor", None)),
    (r"\b(o|down)/b$", P(None, "fsdp")),
    (r"", P()),
)


def make_mesh(
    data: int | None = None,
    fsdp: int | None = None,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """Mesh over the given axis sizes; axes left out take the devices that remain.

    With neither data nor fsdp given, parameters are sharded over the devices of a host (fsdp),
    where links are fast, and repeated over hosts (data).

    Raises:
        ValueError: the axes ask for more devices than present, or leave some of several
            processes without work.
    """
    devices = list(jax.devices() if devices is None else devices)
    if data is None:
        hosts = len({device.process_index for device in devices})
        data = hosts if fsdp is None else max(len(devices) // (fsdp * tensor), 1)
    if fsdp is None:
        fsdp = max(len(devices) // (data * tensor), 1)
    wanted = data * fsdp * tensor
    shape = f"data {data} × fsdp {fsdp} × tensor {tensor} = {wanted} devices"
    if wanted > len(devices):
        raise ValueError(
            f"the mesh asks for {shape}, but {len(devices)} are present: lower an axis"
        )
    if wanted < len(devices) and jax.process_count() > 1:
        raise ValueError(f"the mesh uses {shape} of {len(devices)} in several processes: use all")
    grid = np.asarray(devices[:wanted]).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def make_sampling_mesh(num_bytes: int, devices: Sequence[Any], room: float = math.inf) -> Mesh:
    """The mesh on which a token is drawn with the least traffic.

    Every device has a copy of the weights, and rows of its own, if copies fit; else as few devices
    as can share a copy (tensor). Weights split over fsdp would be gathered for every token.

    Args:
        num_bytes: of the weights.
        devices: all of them are used.
        room: bytes of a device; half of it is left to cache and logits.
    """
    count = len(devices)
    sizes = [n for n in range(1, count) if count % n == 0 and num_bytes / n <= room / 2]
    tensor = min(sizes, default=count)
    return make_mesh(count // tensor, 1, tensor, devices)


def room_of(device: Any) -> float:
    """Bytes that programs on a device may take; no bound where it does not say."""
    return (device.memory_stats() or {}).get("bytes_limit", math.inf)


def shardings(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, P]] = RULES) -> Any:
    """A NamedSharding for every array of a tree (parameters, optimiser state, whole state).

    An axis that does not divide its dimension is left out there.
    """

    def layout(path: Any, array: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next(spec for pattern, spec in rules if re.search(pattern, name))
        if re.search(r"\blayers/(?!\d)", name):  # stacked: layers are never split
            spec = P(None, *spec)
        return NamedSharding(mesh, fitting(spec, array.shape, mesh))

    return jax.tree_util.tree_map_with_path(layout, tree)


def fitting(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """`spec` cut to the rank of `shape`, without axes that do not divide their dimension."""

    def divides(axis: str | tuple[str, ...] | None, size: int) -> bool:
        names = axis if isinstance(axis, tuple) else (axis,)
        return axis is not None and size % math.prod(mesh.shape[name] for name in names) == 0

    return P(*(a if divides(a, n) else None for a, n in zip(spec, shape, strict=False)))


def on(mesh: Mesh, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is to be jitted for a mesh: `constrain` inside it knows the devices."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def current() -> AbstractMesh | None:
    """The mesh of axes (data, fsdp, tensor) that is traced for, if there is one."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if mesh.axis_names == AXES else None


def constrain(x: Any, spec: P = BATCH) -> Any:
    """The array split over the axes of `spec` that divide it, and whole over the others."""
    mesh = current()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, fitting(spec, x.shape, mesh))


def gathered(x: Any, spec: P) -> Any:
    """The array whole over the axes that `spec` leaves out, for a loop that would gather it anew.

    Its gradient stays split as the compiler likes: whole, it would be summed in every turn.
    """
    mesh = current()
    return x if mesh is None or mesh.size == 1 else _gathered(x, spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(x: Any, spec: P) -> Any:
    return constrain(x, spec)


_gathered.defvjp(
    lambda x, spec: (constrain(x, spec), None), lambda spec, kept, gradient: (gradient,)
)


def on_each(function: Callable[..., Any], arrays: Sequence[Any], specs: Sequence[P]) -> Any:
    """The function on every device's own part of the arrays, its result split like the first.

    For kernels, which a compiler cannot split by itself.
    """
    mesh = current()
    if mesh is None or mesh.size == 1:
        return function(*arrays)
    parts = tuple(fitting(spec, x.shape, mesh) for x, spec in zip(arrays, specs, strict=True))
    split = jax.shard_map(function, in_specs=parts, out_specs=parts[0], check_vma=False)
    return split(*arrays)


def attending(rows: int, key_heads: int) -> tuple[Any, str | None]:
    """The axes over which attention and its cache are split: (of rows, of heads).

    A key head and its queries stay in one piece. Where the heads do not divide over the tensor
    axis, its devices share the rows: with all heads on each they would all do the same work.
    """
    mesh = current()
    if mesh is None or key_heads % mesh.shape["tensor"] == 0:
        return BATCH[0], "tensor"
    return shared(rows), None


def shared(rows: int) -> Any:
    """The axes that rows are split over where every device can take some: all, if they divide."""
    mesh = current()
    return BATCH[0] if mesh is None or rows % mesh.size else AXES


def to_attention(x: Any, key_heads: int) -> Any:
    """What a product gives, [rows, tokens, features], as `attending` splits it."""
    rows, heads = attending(x.shape[0], key_heads)
    return constrain(constrain(x, FEATURES), P(rows, None, heads))


def device_kind() -> str:
    """What the device that is traced for calls itself; empty if it is no GPU or TPU."""
    mesh = current()
    device = jax.devices()[0] if mesh is None else mesh.abstract_device
    return "" if device is None or device.platform == "cpu" else device.device_kind


def rows_here(rows: int) -> int:
    """How many of a batch's rows one device works on."""
    mesh = current()
    split = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    return rows if rows % split else rows // split


def split_rows(mesh: Mesh, rows: Any) -> jax.Array:
    """Rows of a batch split over the data and fsdp axes, where they divide."""
    return jax.device_put(rows, NamedSharding(mesh, fitting(BATCH, rows.shape, mesh)))


def place(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, P]] = RULES) -> Any:
    """The tree with every array laid out on the mesh by the rules."""
    return jax.device_put(tree, shardings(mesh, tree, rules))
