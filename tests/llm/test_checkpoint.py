import gc
import importlib.util
import shutil
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import sharding
from llm.training import train
from llm.training.checkpoint import CheckpointError, Checkpoints

spec = importlib.util.spec_from_file_location("llm_worker", Path(__file__).with_name("worker.py"))
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

KEY = jax.random.key(1)
CONFIG = {"learning_rate": 0.1, "model": {"width": 32, "windows": (None, 4)}}


def make_state(scale=1.0, step=0):
    optimizer = train.make_optimizer("adamw", 1e-3)
    params = {"layers": {0: {"kernel": np.float32(scale) * np.arange(4096.0).reshape(64, 64)}}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    params["norm"] = {"scale": jnp.full(8, scale, jnp.bfloat16)}
    return train.init_state(params, optimizer)._replace(step=jnp.int32(step))


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 10 and 20."""
    with Checkpoints(tmp_path / "run", CONFIG) as checkpoints:
        for step in (10, 20):
            checkpoints.save(make_state(step, step), KEY)
    return tmp_path / "run"


def restore(folder, config=CONFIG, key=KEY, state=None):
    reasons = []
    with Checkpoints(folder, config, report=reasons.append) as checkpoints:
        return checkpoints.restore(make_state() if state is None else state, key), reasons


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


def files(folder, step):
    """Data files of one checkpoint, largest first."""
    return sorted((folder / str(step) / "state").rglob("d/*"), key=lambda p: -p.stat().st_size)


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, kills):
    log, arguments = tmp_path / "killed", ("--num-steps=60", "--folder", tmp_path / "run")
    whole = worker.start(tmp_path / "whole", "--num-steps=60")
    losses = {}
    for kill in range(kills):
        wanted = len(worker.read(log)) + 9 + 2 * kill  # the third checkpoint is being written
        process = worker.start(log, *arguments)
        wait_for_lines(log, wanted, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        losses = same_where_both(losses, worker.read(log))
        assert max(losses) < 60, "the run ended before it was killed"
    before = len(worker.read(log))
    last = worker.start(log, *arguments)
    for process in (last, whole):
        output = process.communicate(timeout=240)[0]
        assert process.returncode == 0, output
    resumed = worker.read(log)[before:]
    assert 1 < resumed[0][0] <= max(losses) + 1, "the last process resumed"
    losses = same_where_both(losses, resumed)
    assert losses == dict(worker.read(tmp_path / "whole"))
    assert sorted(losses) == list(range(1, 61))


def wait_for_lines(log, wanted, process, seconds=200):
    deadline = time.monotonic() + seconds
    while len(worker.read(log)) < wanted:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the process does not get on"
        time.sleep(0.001)


def same_where_both(losses, logged):
    """Union of two logs, which must not contradict each other anywhere."""
    for step, loss in logged:
        assert losses.setdefault(step, loss) == loss
    return losses


def test_the_latest_state_comes_back_bit_by_bit(folder):
    found, reasons = restore(folder)
    assert_same(found, make_state(20, 20))
    assert reasons == []


def test_an_empty_folder_gives_the_fresh_state(tmp_path):
    fresh = make_state(3)
    assert restore(tmp_path / "new", state=fresh)[0] is fresh


def test_the_saved_state_may_be_donated_at_once(tmp_path):
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = make_state(2, 4)
    with Checkpoints(tmp_path, CONFIG) as checkpoints:
        checkpoints.save(state, KEY)
        for _ in range(50):
            state = bump(state)
    assert_same(restore(tmp_path)[0], make_state(2, 4))


def truncate(folder):
    largest = files(folder, 20)[0]
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def delete_arrays(folder):
    for file in files(folder, 20):
        file.unlink()


def flip_bits(folder):
    largest = files(folder, 20)[0]
    content = bytearray(largest.read_bytes())
    for position in range(100, len(content) - 100, 50):
        content[position] ^= 0x55
    largest.write_bytes(bytes(content))


def delete_record(folder):
    for file in (folder / "20" / "meta").glob("*"):
        file.unlink()


# Reads of the other arrays may end after orbax has given up and closed its event loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, delete_arrays, flip_bits, delete_record])
def test_a_damaged_checkpoint_is_refused_and_the_last_good_one_used(folder, damage):
    damage(folder)
    found, reasons = restore(folder)
    gc.collect()  # so that orbax' abandoned reads are reported here, and not in another test
    assert_same(found, make_state(10, 10))
    assert len(reasons) == 1
    assert reasons[0].startswith("checkpoint passed over, step 20: ")
    assert "cut short" in reasons[0] or "damaged" in reasons[0]
    # the run can now write step 20 again
    with Checkpoints(folder, CONFIG) as checkpoints:
        checkpoints.save(make_state(5, 20), KEY)
    assert_same(restore(folder)[0], make_state(5, 20))


def test_arrays_that_were_exchanged_are_found(folder):
    """Files that are whole but hold other values: only the checksums can tell."""
    with Checkpoints(folder.parent / "other", CONFIG) as checkpoints:
        checkpoints.save(make_state(21, 20), KEY)
    for file in (folder / "20" / "state").rglob("*"):
        if file.is_file():
            file.unlink()
    (folder.parent / "other" / "20" / "state").rename(folder / "20" / "stranger")
    shutil.rmtree(folder / "20" / "state")
    (folder / "20" / "stranger").rename(folder / "20" / "state")
    found, reasons = restore(folder)
    assert_same(found, make_state(10, 10))
    assert "checksum" in reasons[0]


def test_another_run_is_refused_with_the_reason(folder):
    other = {**CONFIG, "learning_rate": 0.2}
    with pytest.raises(CheckpointError, match=r"config \(learning_rate: 0.1 there, 0.2 here\)"):
        restore(folder, other)
    with pytest.raises(CheckpointError, match="another root key"):
        restore(folder, key=jax.random.key(2))
    state = make_state()
    grown = state._replace(params={**state.params, "head": {"kernel": jnp.ones((2, 2))}})
    with pytest.raises(CheckpointError, match=r"holds other arrays \(.*head.*: 'absent' there"):
        restore(folder, state=grown)
    reshaped = state._replace(params=jax.tree.map(lambda x: x[:4], state.params))
    with pytest.raises(
        CheckpointError,
        match=r"step 20: holds other.*'float32\[64, 64\]' there, 'float32\[4, 64\]' here",
    ):
        restore(folder, state=reshaped)
    assert_same(restore(folder)[0], make_state(20, 20))  # nothing was moved away


def test_the_mesh_may_change(folder):
    for axes in ((1, 2, 2), (2, 2, 1)):
        state = make_state(3)
        mesh = sharding.make_mesh(*axes)
        rules = ((r"kernel$", sharding.P("fsdp", "tensor")), ("", sharding.P()))
        found, _ = restore(folder, state=sharding.place(mesh, state, rules))
        assert_same(found, make_state(20, 20))
        kernel = found.params["layers"][0]["kernel"]
        assert kernel.sharding.mesh.shape == mesh.shape
        assert kernel.addressable_shards[0].data.shape == (64 // axes[1], 64 // axes[2])
        with Checkpoints(folder.parent / f"{axes}", CONFIG) as checkpoints:
            checkpoints.save(found, KEY)
        assert_same(restore(folder.parent / f"{axes}")[0], make_state(20, 20))
