"""The decoder without any reference: causality, packing, cache, seeds, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from llm import models
from llm.models import ModelConfig, Rope, attention

BASE = ModelConfig(vocab_size=31, init_std=0.3, max_positions=32, tie_embeddings=False)
CONFIGS = {
    "llama": dataclasses.replace(BASE, num_kv_heads=2),
    "gemma3": dataclasses.replace(
        BASE,
        family="gemma3_text",
        windows=(3, None),
        local_rope=Rope(theta=100.0, dim=8),
        attention_scale=9**-0.5,
        logit_softcap=20.0,
        **models.FAMILIES["gemma3_text"].fixed,
    ),
    "pythia": dataclasses.replace(
        BASE,
        family="gpt_neox",
        parallel=True,
        qkv_bias=True,
        out_bias=True,
        activation="gelu",
        rope=Rope(dim=2),
        **models.FAMILIES["gpt_neox"].fixed,
    ),
}
T = 12
KEY = jax.random.key(0)
apply = jax.jit(models.apply, static_argnums=0, static_argnames="dtype")


@pytest.fixture(scope="module", params=CONFIGS, ids=list(CONFIGS))
def model(request):
    config = CONFIGS[request.param]
    return config, models.init(config, key=KEY)


def some_tokens(rows: int):
    return jax.random.randint(jax.random.key(1), (rows, T), 0, BASE.vocab_size)


def test_later_tokens_get_no_gradient(model):
    config, params = model
    tokens = jnp.arange(T)[None]  # each position has an embedding row of its own

    def hidden(embedding):
        return models.bind(config, params | {"embedding": embedding}).hidden(tokens)[0, :, 0]

    jacobian = jax.jit(jax.jacrev(hidden))(params["embedding"])  # (T, V, width)
    reached = np.abs(np.asarray(jacobian)).max(axis=-1)[:, :T]
    assert (reached[np.triu_indices(T, 1)] == 0).all()
    assert (reached[np.tril_indices(T)] > 0).all()


def test_a_window_hides_older_tokens():
    config = dataclasses.replace(BASE, family="qwen3", num_layers=1, windows=(3,), qk_norm=True)
    params = models.init(config, key=KEY)
    tokens = some_tokens(1)
    changed = tokens.at[0, 4].set((tokens[0, 4] + 1) % config.vocab_size)
    both = apply(config, params, jnp.concatenate([tokens, changed]))
    differs = np.abs(both[0] - both[1]).max(axis=-1) > 0
    np.testing.assert_array_equal(np.flatnonzero(differs), [4, 5, 6])


def test_packed_examples_do_not_see_each_other(model):
    config, params = model
    row = some_tokens(1)[0]
    tokens = jnp.stack([row, row, row, row])
    segments = jnp.array(
        [
            [1] * 5 + [2] * 4 + [0] * 3,  # two examples and padding
            [1] * 5 + [0] * 7,  # the first alone
            [0] * 5 + [1] * 4 + [0] * 3,  # the second alone
            [1] * 9 + [0] * 3,  # both as one example
        ]
    )
    packed, first, second, joined = apply(config, params, tokens, mask=segments)
    np.testing.assert_allclose(packed[:5], first[:5], atol=1e-5)
    np.testing.assert_allclose(packed[5:9], second[5:9], atol=1e-5)
    assert np.abs(joined[5:9] - second[5:9]).max() > 1e-2


def test_cached_steps_equal_one_pass():
    config = CONFIGS["gemma3"]  # parity tests take every family through the cache
    params, tokens = models.init(config, key=KEY), some_tokens(4)
    mask = jnp.arange(T)[None] >= jnp.array([[0], [2], [5], [6]])

    @jax.jit
    def in_steps(params, tokens):
        decoder = models.bind(config, params)
        cache = models.empty_cache(config, 4, T + 4, jnp.float32)
        logits, cache = decoder(tokens[:, :7], mask=mask[:, :7], cache=cache)

        def step(cache, column):
            logits, cache = decoder(column[:, None], cache=cache)
            return cache, logits[:, 0]

        rest = jax.lax.scan(step, cache, tokens[:, 7:].T)[1]
        return jnp.concatenate([logits, rest.swapaxes(0, 1)], axis=1)

    whole = apply(config, params, tokens, mask=mask.astype(int))
    difference = jnp.abs(in_steps(params, tokens) - whole)[mask].max()
    assert difference < 1e-5 * jnp.std(whole), difference


@pytest.mark.parametrize(
    ("name", "kernel"), [("llama", "xla"), ("gemma3", "xla"), ("llama", "splash")]
)
def test_attention_of_kernels_is_the_same(name, kernel):
    """Without a mask, as in training, where it is told to be causal; and its gradient."""
    config = CONFIGS[name]
    params, tokens = models.init(config, key=KEY), some_tokens(2)

    def loss(params, kind):
        return jnp.mean(models.apply(config, params, tokens, implementation=kind) ** 2)

    ours, theirs = (jax.jit(jax.grad(loss), static_argnums=1)(params, k) for k in (None, kernel))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)
    programs = {str(jax.make_jaxpr(loss, static_argnums=1)(params, k)) for k in (None, kernel)}
    assert len(programs) == 2


@pytest.mark.parametrize("length", [127, 128, 129])
def test_splash_attention_takes_any_length(length):
    keys = jax.random.split(KEY, 3)
    q = jax.random.normal(keys[0], (2, length, 6, 16))
    k, v = (jax.random.normal(key, (2, 3, length, 16)) for key in keys[1:])
    visible = jnp.tril(jnp.ones((2, length, length), bool))
    ours, theirs = (
        attention.attend(q, k, v=v, visible=visible, scale=0.3, causal=True, implementation=kernel)
        for kernel in (None, "splash")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_splash_attention_refuses_what_it_does_not_know():
    """It would let every token see all before it."""
    params = models.init(CONFIGS["gemma3"], key=KEY)
    with pytest.raises(ValueError, match="neither windows, masks nor a cache"):
        models.apply(CONFIGS["gemma3"], params, some_tokens(2), implementation="splash")


def test_seeds_in_one_vmap_equal_seeds_one_by_one():
    config = CONFIGS["llama"]
    keys = jax.random.split(jax.random.key(2), 3)
    stacked = jax.vmap(lambda key: models.init(config, key=key))(keys)
    tokens = some_tokens(4)
    together = jax.vmap(lambda params: apply(config, params, tokens))(stacked)
    for i, key in enumerate(keys):
        alone = apply(config, models.init(config, key=key), tokens)
        np.testing.assert_allclose(together[i], alone, atol=2e-5)
    assert jnp.abs(together[0] - together[1]).max() > 0.1


def test_remat_changes_no_gradient():
    config = dataclasses.replace(CONFIGS["gemma3"], num_layers=1, windows=())
    params, tokens = models.init(config, key=KEY), some_tokens(2)

    def gradient(params, remat):
        def loss(params):
            return jnp.mean(models.apply(config, params, tokens, remat=remat) ** 2)

        return jax.grad(loss)(params)

    plain, recomputed = (jax.jit(gradient, static_argnums=1)(params, r) for r in (False, True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, recomputed
    )
    products = [
        sum(str(op.primitive) == "dot_general" for op in equations(traced.jaxpr))
        for traced in (jax.make_jaxpr(gradient, static_argnums=1)(params, r) for r in (False, True))
    ]
    # All products of the block but the last are computed a second time.
    assert products[1] - products[0] >= 8


def test_half_precision_stays_out_of_norms_softmax_and_logits():
    config = CONFIGS["gemma3"]
    params, tokens = models.init(config, key=KEY), some_tokens(4)
    exact = apply(config, params, tokens, mask=jnp.ones((4, T), int))
    half = apply(config, params, tokens, dtype=jnp.bfloat16)
    assert half.dtype == jnp.float32
    # About 20 roundings follow each other, each at most 2^-9 of a value.
    error = jnp.linalg.norm(half - exact) / jnp.linalg.norm(exact)
    assert 2**-12 < error < 20 * 2**-9, error
    traced = jax.make_jaxpr(lambda p: models.apply(config, p, tokens, dtype=jnp.bfloat16))(params)
    widths = {str(op.primitive): op.outvars[0].aval.dtype for op in equations(traced.jaxpr)}
    assert widths["dot_general"] == jnp.float32  # the logits come last
    assert widths["exp"] == widths["rsqrt"] == jnp.float32
    assert jnp.bfloat16 in widths.values()


def equations(jaxpr):
    """All primitive applications, those of inner functions too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_float64_parameters_compute_in_float64():
    with jax.enable_x64(True):
        params = jax.eval_shape(lambda: models.init(BASE, key=KEY, dtype=jnp.float64))
        logits = jax.eval_shape(lambda p: models.apply(BASE, p, some_tokens(2)), params)
        traced = jax.make_jaxpr(lambda p: models.apply(BASE, p, some_tokens(2)))(params)
    assert logits.dtype == jnp.float64
    products = [op for op in equations(traced.jaxpr) if str(op.primitive) == "dot_general"]
    assert {op.outvars[0].aval.dtype for op in products} == {jnp.dtype("float64")}


def test_initial_weights_have_the_configured_deviation():
    params = models.init(BASE, key=KEY)
    for weights in (params["embedding"], params["layers"][1]["mlp"]["up"]["kernel"]):
        # the deviation of a sample deviation is σ/√(2n)
        assert abs(weights.std() / BASE.init_std - 1) < 5 / np.sqrt(2 * weights.size)
    assert (params["norm"]["scale"] == 1).all()


def test_bad_shapes_are_refused_in_one_line():
    params = models.init(BASE, key=KEY)
    with pytest.raises(ValueError, match="33 tokens exceed the context of 32"):
        models.apply(BASE, params, jnp.zeros((1, 33), jnp.int32))
    with pytest.raises(ValueError, match=r"'mamba' is not supported. Supported: llama \(Llama 2"):
        models.to_hf(ModelConfig(family="mamba"))
    with pytest.raises(ValueError, match=r"a llama checkpoint cannot have logit_softcap = 3.0"):
        models.to_hf(dataclasses.replace(BASE, logit_softcap=3.0))
    with pytest.raises(ValueError, match="not a multiple of num_kv_heads"):
        ModelConfig(num_heads=4, num_kv_heads=3)
    with pytest.raises(ValueError, match="windows has 1 entries for 2 layers"):
        ModelConfig(windows=(3,))


@pytest.mark.parametrize("name", CONFIGS)
def test_config_survives_the_way_through_transformers(name):
    config = dataclasses.replace(CONFIGS[name], bos_token_id=1, eos_token_ids=(2, 3))
    if name == "gemma3":  # Gemma 3 always has tanh GELU
        config = dataclasses.replace(config, activation="gelu_tanh")
    assert models.from_hf(models.to_hf(config)) == config
    assert hash(models.from_hf(models.to_hf(config))) == hash(config)
