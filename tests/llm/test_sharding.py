import importlib.util
import socket
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llm import distributed, models, sharding
from llm.training import lora, train

spec = importlib.util.spec_from_file_location("llm_worker", Path(__file__).with_name("worker.py"))
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)

# The losses are near 4, where float32 has a spacing of 2.4e-7. Sums in another order move a
# gradient by a few units in the last place, and Adam passes relative errors on to the weights.
CURVE = {"rtol": 2e-6}


def curve(axes):
    return [metrics["loss"] for metrics in worker.run(axes=axes)[1]]


@pytest.fixture(scope="module")
def one_device():
    return curve((1, 1, 1))


@pytest.mark.parametrize("axes", [(2, 2, 1), (1, 2, 2)])
def test_four_devices_train_as_one(one_device, axes):
    assert jax.device_count() >= 4, "conftest.py simulates four devices"
    np.testing.assert_allclose(curve(axes), one_device, **CURVE)
    assert one_device[-1] < one_device[0] - 0.3


@pytest.mark.slow
def test_two_processes_train_as_one(one_device, tmp_path):
    """Two real processes of two devices each, which exchange gradients through gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        worker.start(
            tmp_path / str(index),
            "--processes",
            "--devices=2",
            LLM_COORDINATOR=coordinator,
            LLM_PROCESSES="2",
            LLM_PROCESS=str(index),
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for index, output in enumerate(outputs):
        assert processes[index].returncode == 0, output
        losses = [loss for _, loss in worker.read(tmp_path / str(index))]
        np.testing.assert_allclose(losses, one_device, **CURVE)


def test_rules_reach_every_matrix_and_the_optimiser():
    config = models.ModelConfig(width=32, num_heads=4, num_kv_heads=2, qkv_bias=True)
    mesh = sharding.make_mesh(1, 2, 2)
    params = jax.eval_shape(lambda: models.init(config, key=jax.random.key(0)))
    optimizer = train.make_optimizer("adamw", 1e-3)
    state = jax.eval_shape(lambda p: train.init_state(p, optimizer), params)
    specs = jax.tree.map(lambda s: s.spec, sharding.shardings(mesh, state))
    layer = specs.params["layers"][0]
    assert layer["attn"]["q"]["kernel"] == P("fsdp", "tensor")
    assert layer["attn"]["o"]["kernel"] == P("tensor", "fsdp")
    assert layer["attn"]["q"]["bias"] == P("tensor")
    assert layer["mlp"]["down"]["kernel"] == P("tensor", "fsdp")
    assert specs.params["embedding"] == P(("tensor", "fsdp"), None)
    for leaf, leaf_spec in zip(
        jax.tree.leaves(params),
        jax.tree.leaves(specs.params, is_leaf=lambda x: isinstance(x, P)),
        strict=True,
    ):
        split = {axis for axis in leaf_spec if axis is not None}
        assert len(leaf.shape) < 2 or split, leaf.shape
    moments = [s for s in jax.tree.leaves(specs.opt_state, is_leaf=lambda x: isinstance(x, P))]
    weights = [s for s in jax.tree.leaves(specs.params, is_leaf=lambda x: isinstance(x, P))]
    assert sorted(map(str, moments)) == sorted([*map(str, 2 * weights), str(P())])
    adapters = jax.eval_shape(
        lambda p: lora.init(lora.LoraConfig(rank=2), p, key=jax.random.key(1)), params
    )
    specs = jax.tree.map(lambda s: s.spec, sharding.shardings(mesh, adapters))
    assert specs["layers"][0]["attn"]["q"] == {"a": P("fsdp", None), "b": P(None, "tensor")}


def test_an_axis_that_does_not_divide_is_left_out():
    mesh = sharding.make_mesh(1, 2, 2)
    assert sharding.fitting(P("fsdp", "tensor"), (6, 5), mesh) == P("fsdp", None)
    assert sharding.fitting(P(("tensor", "fsdp"), None), (6, 4), mesh) == P(None, None)
    assert sharding.fitting(P("fsdp", "tensor"), (), mesh) == P()
    placed = sharding.place(mesh, {"up": {"kernel": jnp.ones((6, 4))}})
    assert placed["up"]["kernel"].addressable_shards[0].data.shape == (3, 2)


def test_mesh_defaults_and_errors():
    devices = jax.devices()[:4]
    assert dict(sharding.make_mesh(devices=devices).shape) == {"data": 1, "fsdp": 4, "tensor": 1}
    assert sharding.make_mesh(data=2, devices=devices).shape["fsdp"] == 2
    assert sharding.make_mesh(fsdp=2, devices=devices).shape["data"] == 2
    assert sharding.make_mesh(tensor=2, devices=devices).shape["fsdp"] == 2
    assert sharding.make_mesh(1, 1, 1).size == 1
    with pytest.raises(ValueError, match="= 12 devices, but 4 are present: lower an axis"):
        sharding.make_mesh(2, 3, 2, devices)


def test_process_windows_and_their_errors(monkeypatch):
    assert distributed.process_window(sharding.make_mesh(2, 2, 1), 8) == (0, 8)
    with pytest.raises(ValueError, match="batch size 6 does not divide over data × fsdp = 4"):
        distributed.process_window(sharding.make_mesh(2, 2, 1), 6)
    monkeypatch.setenv("LLM_COORDINATOR", "host:1")
    with pytest.raises(ValueError, match="LLM_PROCESSES, LLM_PROCESS must be set as well"):
        distributed.start()
