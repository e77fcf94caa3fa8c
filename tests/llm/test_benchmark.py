import sys

import jax
import numpy as np
import pytest

from benchmarks import llm, llm_shapes
from llm import models, plan
from llm.training import objectives

SHAPE = llm_shapes.TOYS[0]


@pytest.mark.parametrize(
    "shape", [*llm_shapes.CPU_SHAPES, *(s[0] for s in llm_shapes.ACCELERATOR_SHAPES.values())]
)
def test_shapes_have_the_size_in_their_name(shape):
    params = jax.eval_shape(lambda: models.init(shape.config, key=jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    size = shape.name.rpartition("-")[2]
    named = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
    assert 0.95 < count / named < 1.1
    embeddings = shape.config.vocab_size * shape.config.width
    vectors = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 1)
    tables = 1 if shape.config.tie_embeddings else 2
    multiplied = count - vectors - (tables - 1) * embeddings
    assert plan.matmul_weights(shape.config) == multiplied


def test_operations_are_those_the_compiler_counts():
    config = models.ModelConfig(
        vocab_size=512,
        width=256,
        num_layers=2,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
        mlp_width=1024,
    )
    shape = llm_shapes.Shape(
        name="x",
        config=config,
        rows=2,
        length=64,
        chunk=None,
        prompts=1,
        prompt_length=1,
        num_new=1,
    )
    batch = {name: np.ones((2, 64), kind) for name, kind in (("tokens", "i4"), ("weights", "f4"))}
    params = jax.eval_shape(lambda: models.init(config, key=jax.random.key(0)))
    grad = jax.grad(objectives.completion_loss(objectives.full_student(config)), has_aux=True)
    compiled = jax.jit(grad).lower(params, None, batch, jax.random.key(0)).compile()
    # The compiler also counts element-wise work and the masked half of attention.
    assert 1 < compiled.cost_analysis()["flops"] / llm_shapes.train_flops(shape, None) < 1.1


def test_memory_traffic_of_sampling_is_weights_and_cache():
    config = SHAPE.config
    half_way = SHAPE.prompt_length + SHAPE.num_new / 2
    cache = models.empty_cache(config, SHAPE.prompts, int(half_way), "bfloat16")
    expected = sum(leaf.nbytes for leaf in (*cache.keys, *cache.values))
    found = llm_shapes.sample_bytes(SHAPE, 2) - 2 * plan.matmul_weights(config)
    assert found == expected


def test_a_run_writes_its_tables_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "benchmarks.llm_torch", None)  # as if not installed
    assert llm.load_opponent() is None
    assert "make opponents" in capsys.readouterr().out
    row = llm.measure(SHAPE, "sampling", bfloat16=False, opponent=None, repeats=1)
    assert row["ours_tokens_per_s"] > 0
    assert "theirs_tokens_per_s" not in row
    page = llm.report([row, {"kind": "hardware", "bytes_per_s": 1.0}], llm.machine(None, load=0.1))
    assert "| toy | sampling | float32 |" in page


def test_out_of_memory_is_a_row(monkeypatch):
    def fail(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(llm, "make_train", fail)
    row = llm.measure(SHAPE, "full", bfloat16=False, opponent=None, repeats=1)
    assert row["error"].startswith("out of memory")
    assert "RESOURCE_EXHAUSTED" in llm.describe(row)
