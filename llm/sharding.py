"""One mesh with axes (data, fsdp, tensor) and the rules that place parameters on it.

Batches are split over data and fsdp together; parameters and optimiser state over fsdp
(gathered layer by layer) and tensor (never gathered). One device is a mesh of one.
"""

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
# tensor axis per attention and per MLP is all the communication. LoRA factors are small: a is
# [inputs, rank] and b [rank, outputs]. Moments of the optimiser end in the same path.
RULES: tuple[tuple[str, P], ...] = (
    (r"embedding$", P("tensor", "fsdp")),
    (r"(q|k|v|qkv|gate|up|head)/kernel$", P("fsdp", "tensor")),
    (r"(o|down)/kernel$", P("tensor", "fsdp")),
    (r"(q|k|v|qkv|gate|up)/bias$", P("tensor")),
    (r"(q|k|v|qkv|gate|up|head)/.*a$", P("fsdp", None)),
    (r"(q|k|v|qkv|gate|up|head)/.*b$", P(None, "tensor")),
    (r"(o|down)/.*a$", P("tensor", None)),
    (r"(o|down)/.*b$", P(None, "fsdp")),
    (r"", P()),
)


def make_mesh(
    data: int | None = None,
    fsdp: int | None = None,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Mesh over the given axis sizes; by default all devices present.

    The default shards parameters over the devices of a host (fsdp), where links are fast, and
    repeats them over hosts (data).

    Raises:
        ValueError: the axes do not multiply to the devices, or ask for more than present.
    """
    devices = list(jax.devices() if devices is None else devices)
    if data is None and fsdp is None:
        hosts = len({device.process_index for device in devices})
        fsdp = max(len(devices) // hosts // tensor, 1)
    if data is None:
        data = max(len(devices) // (fsdp * tensor), 1)
    if fsdp is None:
        fsdp = max(len(devices) // (data * tensor), 1)
    wanted = data * fsdp * tensor
    shape = f"data {data} × fsdp {fsdp} × tensor {tensor} = {wanted} devices"
    if wanted > len(devices):
        raise ValueError(
            f"the mesh asks for {shape}, but {len(devices)} are present: lower an axis"
        )
    if wanted < len(devices):
        raise ValueError(f"the mesh uses {shape} of {len(devices)}: pass the devices to be used")
    return Mesh(
        np.asarray(devices).reshape(data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3
    )


def shardings(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, P]] = RULES) -> Any:
    """A NamedSharding for every array of a tree (parameters, optimiser state, whole state).

    An axis that does not divide its dimension is left out there.
    """

    def place(path: Any, array: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next(spec for pattern, spec in rules if re.search(pattern, name))
        return NamedSharding(mesh, fitting(spec, array.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def fitting(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """`spec` cut to the rank of `shape`, without axes that do not divide their dimension."""
    kept = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(spec, shape, strict=False)
    ]
    return P(*kept)


def place(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, P]] = RULES) -> Any:
    """The tree with every array laid out on the mesh by the rules."""
    return jax.device_put(tree, shardings(mesh, tree, rules))
