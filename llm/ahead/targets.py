"""Machines by name, as their compilers know them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..plan import POOL
from ..settings import RunError

TARGETS = Path(__file__).parent
GIB = 2**30
# Bytes of one TPU chip that programs have, by the compiler's own messages.
TPUS = {
    "v4": 31.25 * GIB,
    "v5e": 15.75 * GIB,
    "v5p": 95.74 * GIB,
    "v6e": 31.25 * GIB,
}
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Target(NamedTuple):
    """Some devices of a kind.

    Attributes:
        card: "v5e" and the like, or a file with the target text of a GPU.
        shape: of a TPU slice, "4x4"; of GPUs, how many ("8"), or hosts by GPUs ("2x8").
    """

    card: str
    shape: str

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU."""
        return self.card in TPUS

    @property
    def text(self) -> str:
        """The target text of a GPU."""
        return Path(self.card).read_text()

    @property
    def memory(self) -> float:
        """Bytes of one device."""
        if self.is_tpu:
            return TPUS[self.card]
        words = self.text.split()
        return float(words[words.index("device_memory_size:") + 1])

    @property
    def room(self) -> float:
        """Bytes that JAX lets programs on one device have."""
        return self.memory * (1 if self.is_tpu else POOL)

    def environment(self) -> Mapping[str, str]:
        """Of a process that compiles for it: it must look for no device, and keep no program."""
        ours = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
        if self.is_tpu:
            return {**os.environ, **ours, **TPU_ENVIRONMENT, "XLA_FLAGS": ""}
        return {**os.environ, **ours, "XLA_FLAGS": "--xla_gpu_autotune_level=0"}

    def devices(self) -> list[Any]:
        """Stand-ins for its devices.

        Raises:
            RunError: the compiler is not installed, or knows no such machine.
        """
        from jax.experimental import topologies

        try:
            if self.is_tpu:
                single = {"chips_per_host_bounds": [1, 1, 1]} if _size(self.shape) == 1 else {}
                found = topologies.get_topology_desc(
                    platform="tpu", topology_name=f"{self.card}:{self.shape}", **single
                )
            else:
                hosts, _, count = self.shape.rpartition("x")
                found = topologies.get_topology_desc(
                    "gpus",
                    platform="cuda",
                    target_config=self.text,
                    topology=f"1x{hosts or 1}x{count}",
                )
        except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
            extra = "ahead-tpu" if self.is_tpu else "ahead-cuda"
            raise RunError(
                f"no compiler for {self.card}:{self.shape} here ({str(error).splitlines()[0]}): "
                f'pip install ".[{extra}]"'
            ) from None
        return list(found.devices)


def host(whole: Target) -> Target:
    """One host of a machine, for programs that each host runs by itself.

    Compilers take all devices of a machine or none: of a part of a TPU slice theirs knows no
    collectives.
    """
    if not whole.is_tpu:
        return whole._replace(shape=whole.shape.rpartition("x")[2])
    places = np.array([d.coords for d in whole.devices() if d.process_index == 0])
    sides = (places.max(axis=0) - places.min(axis=0) + 1)[: len(whole.shape.split("x"))]
    return whole._replace(shape="x".join(map(str, sides)))


def _size(shape: str) -> int:
    size = 1
    for side in shape.split("x"):
        size *= int(side)
    return size


def target(text: str) -> Target:
    """A machine by name: "h200:8", "h100:1", "v5e:4x4", "v5p:2x2x1", or a target file and ":8".

    Raises:
        RunError: none of these.
    """
    card, _, shape = text.rpartition(":")
    file = TARGETS / f"{card}.txtpb"
    sides = shape.split("x")
    if card and all(side.isdecimal() and int(side) for side in sides):
        if card in TPUS:
            return Target(card, shape)
        for path in (file, Path(card)):
            if path.is_file() and len(sides) <= 2:
                return Target(str(path), shape)
    gpus = sorted(path.stem for path in TARGETS.glob("*.txtpb"))
    raise RunError(
        f"topology {text!r}: needs a machine and its size, as in h200:8 or v5e:4x4; known are "
        f"{', '.join([*gpus, *TPUS])}, or a file with the target text of a GPU"
    )
