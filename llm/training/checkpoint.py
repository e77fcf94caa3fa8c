"""Asynchronous Orbax checkpoints that resume to the last bit or say why they do not.

A checkpoint holds the `TrainState` (parameters, optimiser state, step), the root key, the data
position and the config of the run, plus a checksum of every array. Batches and dropout keys
are functions of (key, step), so this is all a run needs. Orbax renames a finished checkpoint
into place: a process killed while writing leaves the previous one.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ..settings import as_json, describe_difference
from .train import TrainState


class CheckpointError(ValueError):
    """No checkpoint in the folder can be used; the message gives the reason for each."""


class Checkpoints:
    """The checkpoints of one run in one folder; use it as a context manager.

    Args:
        folder: created if absent.
        config: JSON-like settings that define the run; a checkpoint of other ones is refused.
        every: steps between checkpoints (the last step is always saved).
        keep: how many of the latest to keep.
        report: receives the reason whenever a checkpoint is passed over.
    """

    def __init__(
        self,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        every: int = 100,
        keep: int = 2,
        report: Callable[[str], None] = print,
    ):
        self.folder = Path(folder).resolve()
        self.config = as_json(config)
        self.every = every
        self.report = report
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.wait()
        self._manager.close()

    def due(self, step: int, num_steps: int) -> bool:
        """Whether the state after `step` of `num_steps` steps is to be saved."""
        return step % self.every == 0 or step == num_steps

    def save(self, state: TrainState, key: jax.Array) -> None:
        """Write the state in the background; the caller may donate it at once."""
        step = int(state.step)
        self._manager.wait_until_finished()
        meta = {
            "config": self.config,
            "data_position": {"next_batch": step},
            "key": {"impl": str(jax.random.key_impl(key)), "data": _key_words(key)},
            "arrays": describe(state),
        }
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Return once the checkpoint being written is complete."""
        self._manager.wait_until_finished()

    def describe_last(self) -> str:
        """The last complete checkpoint, for messages."""
        self.wait()
        step = self._manager.latest_step()
        return "none" if step is None else f"step {step} in {self.folder}"

    def restore(self, state: TrainState, key: jax.Array) -> TrainState:
        """The latest usable checkpoint, or `state` itself if the folder holds none.

        Args:
            state: fresh state; gives the shapes, dtypes and shardings, so a checkpoint written
                on another mesh is laid out for this one.
            key: root key of this run; a checkpoint of another is refused.

        Raises:
            CheckpointError: there are checkpoints and none is usable.
        """
        reasons = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._read(step, state, key)
            except CheckpointError as error:
                reasons.append(f"step {step}: {error}")
                self.report(f"checkpoint passed over, {reasons[-1]}")
                continue
            for later in [s for s in self._manager.all_steps() if s > step]:
                self._set_aside(later)
            return restored
        if reasons:
            raise CheckpointError(f"no usable checkpoint in {self.folder}: {'; '.join(reasons)}")
        return state

    def _read(self, step: int, state: TrainState, key: jax.Array) -> TrainState:
        meta = self._item(step, meta=ocp.args.JsonRestore())["meta"]
        if missing := {"config", "data_position", "key", "arrays"} - set(meta or {}):
            raise CheckpointError(f"cut short (no {', '.join(sorted(missing))})")
        if difference := describe_difference(meta["config"], self.config):
            raise CheckpointError(f"written with another config ({difference})")
        if meta["key"]["data"] != _key_words(key):
            raise CheckpointError("written with another root key")
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        wanted = {name: _kind(x) for name, x in _leaves(target).items()}
        stored = {name: array["kind"] for name, array in meta["arrays"].items()}
        if difference := describe_difference(stored, wanted):
            raise CheckpointError(f"holds other arrays ({difference[:300]})")
        restored = self._item(step, state=ocp.args.StandardRestore(target))["state"]
        if wrong := describe_difference(meta["arrays"], describe(restored)):
            raise CheckpointError(f"damaged ({wrong[:300]})")
        if int(restored.step) != meta["data_position"]["next_batch"] or int(restored.step) != step:
            raise CheckpointError("damaged: step and data position disagree")
        return restored

    def _item(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax and tensorstore raise many kinds for a damaged file
            reason = str(error).strip().splitlines()[0][:200]
            raise CheckpointError(f"cut short or damaged ({reason})") from error

    def _set_aside(self, step: int) -> None:
        """Move a refused later checkpoint away, so that the run can write this step again."""
        if jax.process_index() == 0:
            target = self.folder / "refused" / str(step)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(target)
        multihost_utils.sync_global_devices(f"checkpoint {step} set aside")
        self._manager.reload()


def _key_words(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).reshape(-1).tolist()


def _leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


@jax.jit
def _words(tree: Any) -> Any:
    def checksum(array: jax.Array) -> jax.Array:
        unsigned = jnp.dtype(f"uint{8 * array.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
        # Weighted by position along the last axis, so that swapped values show. Integer sums
        # wrap and commute: the result depends on neither mesh nor order.
        weights = 2 * jax.lax.iota(jnp.uint32, array.shape[-1]) + 1 if array.ndim else 1
        return jnp.sum(bits * weights, dtype=jnp.uint32)

    return jax.tree.map(checksum, tree)


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """Kind and checksum of every array by its path; zeros and short reads are found."""
    words = _leaves(jax.device_get(_words(tree)))
    arrays = _leaves(tree)
    return {n: {"kind": _kind(arrays[n]), "checksum": int(words[n])} for n in arrays}
