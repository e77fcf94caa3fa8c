"""One mesh with axes (data, fsdp, tensor) and the rules that place parameters on it.

Batches are split over data and fsdp together; parameters and optimiser state over fsdp
(gathered layer by layer) and tensor (never gathered). One device is a mesh of one.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

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


def fitting(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """`spec` cut to the rank of `shape`, without axes that do not divide their dimension."""

    def divides(axis: str | tuple[str, ...] | None, size: int) -> bool:
        names = axis if isinstance(axis, tuple) else (axis,)
        return axis is not None and size % math.prod(mesh.shape[name] for name in names) == 0

    return P(*(a if divides(a, n) else None for a, n in zip(spec, shape, strict=False)))


def place(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, P]] = RULES) -> Any:
    """The tree with every array laid out on the mesh by the rules."""
    return jax.device_put(tree, shardings(mesh, tree, rules))
