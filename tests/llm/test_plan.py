"""Memory and cost before anything is loaded, against what the compiler says of a small program."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import llm_shapes, units
from llm import models, plan
from llm.training import Training, lora
from llm.training.lora import LoraConfig

CONFIG = dataclasses.replace(
    llm_shapes.SMALL, num_layers=4, width=256, mlp_width=1024, num_heads=4, num_kv_heads=4
)


@pytest.mark.parametrize(("rank", "rows"), [(None, 4), (8, 16)])
def test_memory_of_training_is_what_the_compiler_reports(rank, rows):
    shape = llm_shapes.Shape(
        name="x",
        config=CONFIG,
        rows=rows,
        length=128,
        chunk=32,
        prompts=1,
        prompt_length=1,
        num_new=1,
    )
    work = units.make_train(
        shape, rank, bfloat16=False, tokens=np.ones((rows, 128), np.int32), stacked=True
    )
    adapters = None if rank is None else LoraConfig(rank=rank, alpha=rank)
    how = Training(steps=1, batch_size=rows, optimizer="adamw", adapters=adapters)
    limits = plan.Limits(chunk=32)
    found = plan.training(CONFIG, how, length=128, limits=limits, fused=False, base="float32")
    # What lives for a moment only is estimated, the rest is counted; the copy that was loaded is
    # no argument of the step.
    assert 0.75 < (found.total - found.loaded) / work.num_bytes < 1.35
    assert found.fits(24e9)
    assert not found.fits(found.total)


def test_shapes_of_all_layers_are_those_of_the_first():
    whole = jax.eval_shape(lambda: models.init(CONFIG, key=jax.random.key(0)))
    assert plan.count(CONFIG) == sum(leaf.size for leaf in jax.tree.leaves(whole))
    settings = LoraConfig(rank=8, targets=r"layers/[13]/attn/q")
    adapters = jax.eval_shape(lambda: lora.init(settings, whole, key=jax.random.key(0)))
    found = plan.adapter_count(CONFIG, settings)
    assert found == sum(leaf.size for leaf in jax.tree.leaves(adapters)) > 0


def test_parts_add_up_and_follow_their_cause():
    how = Training(steps=1, batch_size=8, optimizer="adamw")
    small, large = (plan.training(CONFIG, how, length=length) for length in (64, 128))
    assert small.parameters == 4 * plan.count(CONFIG)
    assert small.optimiser == 2 * small.parameters
    assert large.activations == 2 * small.activations
    assert sum(small) == small.total
    halved = plan.training(CONFIG, how, length=128, limits=plan.Limits(accumulate=2, remat=True))
    assert halved.activations < large.activations / 2
    assert (
        plan.training(CONFIG, dataclasses.replace(how, optimizer="sgd"), length=64).optimiser == 0
    )
    drawn = plan.sampling(CONFIG, rows=3, slots=20)
    assert drawn.cache == 3 * 20 * 2 * 4 * CONFIG.num_kv_heads * CONFIG.head_dim * 2
    assert drawn.parameters == 2 * plan.count(CONFIG)


def test_a_mesh_divides_and_gathers():
    how = Training(steps=1, batch_size=16, optimizer="adamw", adapters=LoraConfig(rank=8))
    found = {
        axes: plan.training(CONFIG, how, length=64, axes=axes)
        for axes in ((1, 1, 1), (4, 1, 1), (1, 4, 1), (1, 1, 4))
    }
    alone = found.pop((1, 1, 1))
    assert alone.gathered == found[4, 1, 1].gathered == found[1, 1, 4].gathered == 0
    assert found[1, 4, 1].gathered > 0
    assert found[4, 1, 1].parameters == alone.parameters
    assert found[1, 4, 1].parameters == found[1, 1, 4].parameters == alone.parameters / 4
    for axes in ((4, 1, 1), (1, 4, 1)):
        assert found[axes].activations == alone.activations / 4
    # Over the tensor axis the residual stream is whole: 2 of its arrays a layer.
    whole = 16 * 64 * CONFIG.num_layers * 2 * CONFIG.width * 4
    split = (alone.activations - whole) / 4
    assert found[1, 1, 4].activations == pytest.approx(whole + split)
    soft = plan.training(CONFIG, how, length=64, soft=True)
    assert soft.parameters == alone.parameters + 4 * plan.count(CONFIG)


def test_a_7b_fits_where_it_should():
    config = llm_shapes.LARGER
    lora = Training(
        steps=1, batch_size=8, optimizer="adamw", adapters=LoraConfig(rank=8), dtype="bfloat16"
    )
    full = Training(steps=1, batch_size=8, optimizer="adamw", dtype="bfloat16")
    assert [plan.training(config, lora, length=192).fits(card) for card in plan.CARDS] == [0, 1, 1]
    assert [plan.training(config, full, length=192).fits(card) for card in plan.CARDS] == [0, 0, 0]
    assert plan.sampling(config, 64, slots=256).fits(24e9)
    assert plan.flops_per_token(config, LoraConfig(rank=8)) == pytest.approx(4 * 7.07e9, rel=0.01)


def test_rates_are_given_or_measured(tmp_path):
    assert plan.rates_of("4e14,3e12") == plan.Rates(4e14, 3e12)
    rows = [
        {"quantity": "4 N a token", "value": 400.0},
        {"quantity": "6 N a token", "value": 300.0},
        {"quantity": "bandwidth", "value": 4000.0},
        {"quantity": "share of the limit", "value": 0.5},
    ]
    path = tmp_path / "measured.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert plan.rates_of(str(path)) == plan.Rates(4e14, 2e12)
    path.write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match="has no bandwidth, share of the limit: run python -m"):
        plan.rates_of(str(path))
    with pytest.raises(ValueError, match=r"neither a file of benchmarks\.accelerator nor two"):
        plan.rates_of("fast")


def test_sampling_takes_as_long_as_its_bytes():
    rates = plan.Rates(1e30, 1e12)
    seconds = plan.sampling_seconds(CONFIG, rates, prompts=10, drawn=64 * 100, rows=64, length=50)
    weights, cache = 2 * plan.matmul_weights(CONFIG), plan.cache_bytes_per_token(CONFIG, 2)
    assert seconds == pytest.approx(100 * (weights + 64 * 50 * cache) / 1e12)
