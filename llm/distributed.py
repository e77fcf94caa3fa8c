"""Several processes as one program: start-up, and batches of which each reads its own rows.

The same command runs in every process. On Slurm, Cloud TPU and Kubernetes `start()` finds the
others by itself (`python -m llm ... --join`); elsewhere say who they are, here two machines:

    LLM_COORDINATOR=host0:12355 LLM_PROCESSES=2 LLM_PROCESS=0 python -m llm finetune ...   # host0
    LLM_COORDINATOR=host0:12355 LLM_PROCESSES=2 LLM_PROCESS=1 python -m llm finetune ...   # host1

All processes need the same code, config and data files, and one shared folder for checkpoints.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from . import sharding

WAIT = 24 * 3600  # seconds that a process which has finished waits for the others to finish
VARIABLES = ("LLM_COORDINATOR", "LLM_PROCESSES", "LLM_PROCESS")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process: int | None = None,
) -> None:
    """Join the other processes; call it once, before anything touches a device.

    Args:
        coordinator: "host:port" of process 0, by default $LLM_COORDINATOR.
        num_processes: how many there are, by default $LLM_PROCESSES.
        process: which one this is, from 0, by default $LLM_PROCESS.

    Raises:
        ValueError: only some of the three are known.
    """
    known = {
        "LLM_COORDINATOR": coordinator or os.environ.get("LLM_COORDINATOR"),
        "LLM_PROCESSES": os.environ.get("LLM_PROCESSES")
        if num_processes is None
        else num_processes,
        "LLM_PROCESS": os.environ.get("LLM_PROCESS") if process is None else process,
    }
    missing = [name for name, value in known.items() if value is None]
    if 0 < len(missing) < len(known):
        raise ValueError(f"to join other processes, {', '.join(missing)} must be set as well")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # used on CPU only
    if missing:
        jax.distributed.initialize(shutdown_timeout_seconds=WAIT)
    else:
        address, count, index = known.values()
        jax.distributed.initialize(address, int(count), int(index), shutdown_timeout_seconds=WAIT)


def keep_programs() -> Path | None:
    """Keep compiled programs between runs, on accelerators, where each takes half a minute.

    In $JAX_COMPILATION_CACHE_DIR if that is set, else in `subliminal-learning/programs` of the
    user's cache folder. Returns the folder; None on a CPU, whose programs may not suit the next.
    """
    if jax.default_backend() == "cpu":
        return None
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(folder / "subliminal-learning/programs"))
    return Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]


def process_window(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Rows (start, stop) of every batch that this process holds.

    Raises:
        ValueError: the batch does not divide over the mesh, or the rows are not contiguous.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise ValueError(
            f"batch size {batch_size} does not divide over data × fsdp = {shards}: change one"
        )
    indices = _batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    slices = [index[0] for index in indices.values() if index]
    spans = {(s.start or 0, batch_size if s.stop is None else s.stop) for s in slices}
    start, stop = min(a for a, _ in spans), max(b for _, b in spans)
    if sum(b - a for a, b in spans) != stop - start:
        raise ValueError("this process' rows of a batch are not contiguous: order the mesh by host")
    return start, stop


def make_put(mesh: Mesh, batch_size: int) -> Callable[[Any], Any]:
    """Function from a process' rows (`process_window`) to batches sharded over the mesh."""
    layout = _batch_sharding(mesh)

    def put(rows: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(
                layout, np.asarray(x), (batch_size, *x.shape[1:])
            ),
            rows,
        )

    return put


def _batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, sharding.BATCH)
