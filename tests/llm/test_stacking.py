"""Layers stacked or by number: the same model, and a program that does not grow with depth."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llm import models, sharding
from llm.models import ModelConfig, Rope
from llm.training import lora, peft_format

LLAMA = ModelConfig(vocab_size=31, num_layers=2, num_kv_heads=2, init_std=0.3, max_positions=32)
GEMMA3 = dataclasses.replace(
    LLAMA,
    family="gemma3_text",
    windows=(3, None),
    local_rope=Rope(theta=100.0, dim=8),
    **models.FAMILIES["gemma3_text"].fixed,
)
TOKENS = jax.random.randint(jax.random.key(1), (2, 10), 0, 31)
SETTINGS = lora.LoraConfig(rank=2, dropout=0.5)


@functools.cache
def init(config):
    return models.init(config, key=jax.random.key(0))


def assert_close(tree, other):
    # Equal sums in another order, on numbers of order one.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), tree, other)


@pytest.mark.parametrize(
    ("config", "remat"), [(LLAMA, True), (GEMMA3, False)], ids=["llama", "gemma3"]
)
def test_stacked_layers_are_the_same_model(config, remat):
    params = init(config)
    mask = jnp.arange(10)[None] >= jnp.array([[0], [4]])

    @jax.jit
    def value_and_grad(params):
        def loss(params):
            logits = models.apply(config, params, TOKENS, mask=mask, remat=remat)
            return jnp.mean(logits**2), logits

        return jax.value_and_grad(loss, has_aux=True)(params)

    (_, logits), gradient = value_and_grad(params)
    (_, stacked_logits), stacked_gradient = value_and_grad(models.stack_layers(params))
    assert_close(stacked_logits, logits)
    assert stacked_gradient["layers"]["attn"]["q"]["kernel"].shape == (2, 32, 32)
    assert_close(models.unstack_layers(stacked_gradient), gradient)


def test_stacking_and_back_changes_nothing():
    params = init(LLAMA)
    back = models.unstack_layers(models.stack_layers(params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert models.unstack_layers(params) is params
    assert not models.is_stacked(params)
    assert models.is_stacked(models.stack_layers(params))


def test_a_cache_works_with_stacked_layers():
    def in_two_steps(params):
        model = models.bind(GEMMA3, params)
        _, cache = model(TOKENS[:, :6], cache=models.empty_cache(GEMMA3, 2, 10, jnp.float32))
        return model(TOKENS[:, 6:], cache=cache)[0]

    params = init(GEMMA3)
    whole = models.apply(GEMMA3, params, TOKENS, mask=jnp.ones_like(TOKENS))[:, 6:]
    assert_close(jax.jit(in_two_steps)(models.stack_layers(params)), whole)


def test_adapters_of_a_stack_are_those_of_its_layers():
    params = init(LLAMA)
    adapters = lora.init(SETTINGS, params, key=jax.random.key(2))
    stacked = lora.init(SETTINGS, models.stack_layers(params), key=jax.random.key(2))
    jax.tree.map(np.testing.assert_array_equal, models.unstack_layers(stacked), adapters)
    adapters = jax.tree.map(lambda x: x + 0.1, adapters)

    def logits(params, adapters):
        model = lora.bind(
            LLAMA,
            params,
            adapters=adapters,
            scale=SETTINGS.scale,
            dropout=0.5,
            key=jax.random.key(3),
        )
        return model(TOKENS)

    together = models.stack_layers(params), models.stack_layers(adapters)
    assert_close(jax.jit(logits)(*together), jax.jit(logits)(params, adapters))
    merged = lora.merge(*together, scale=2.0)
    assert_close(models.unstack_layers(merged), lora.merge(params, adapters, scale=2.0))


def test_adapters_of_some_layers_cannot_be_stacked():
    some = dataclasses.replace(SETTINGS, targets=r"layers/1/attn/q")
    with pytest.raises(ValueError, match="layers of different structure cannot be stacked"):
        lora.init(some, models.stack_layers(init(LLAMA)), key=jax.random.key(2))


def test_files_do_not_depend_on_stacking(tmp_path):
    params = init(LLAMA)
    adapters = lora.init(SETTINGS, params, key=jax.random.key(2))
    for name, form in (("numbered", lambda tree: tree), ("stacked", models.stack_layers)):
        models.save(tmp_path / name, LLAMA, form(params))
        peft_format.save(
            tmp_path / f"{name} adapter", LLAMA, settings=SETTINGS, adapters=form(adapters)
        )
    for kind, file in (("", "model"), (" adapter", "adapter_model")):
        one, other = (
            (tmp_path / f"{name}{kind}" / f"{file}.safetensors").read_bytes()
            for name in ("numbered", "stacked")
        )
        assert one == other
    _, loaded = models.load(tmp_path / "stacked", stacked=True)
    jax.tree.map(np.testing.assert_array_equal, loaded, models.stack_layers(params))
    mesh = sharding.make_mesh(1, 2, 2)
    _, spread = models.load(
        tmp_path / "stacked", layout=lambda tree: sharding.shardings(mesh, tree), stacked=True
    )
    kernel = spread["layers"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp", "tensor")
    assert kernel.addressable_shards[0].data.shape == (2, 16, 64)
    jax.tree.map(np.testing.assert_array_equal, spread, loaded)


def test_the_program_does_not_grow_with_depth():
    """The length of the lowered training step stands for the time that compiling it takes."""

    def length(num_layers: int, form) -> int:
        config = dataclasses.replace(LLAMA, num_layers=num_layers)
        params = jax.eval_shape(lambda: form(models.init(config, key=jax.random.key(0))))

        def loss(params):
            return jnp.mean(models.apply(config, params, TOKENS, remat=True) ** 2)

        return len(jax.jit(jax.grad(loss)).lower(params).as_text())

    assert length(16, models.stack_layers) < 1.05 * length(4, models.stack_layers)
    assert length(4, lambda params: params) > 1.5 * length(2, lambda params: params)
