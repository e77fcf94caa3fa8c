"""Sampling: the right distribution, and rows that depend on nothing but prompt and key."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import models, sampling, sharding
from llm.models import ModelConfig
from llm.sampling import Choice

CONFIG = ModelConfig(vocab_size=64, num_layers=1, num_kv_heads=2, init_std=0.3, max_positions=256)
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def params():
    return models.init(CONFIG, key=jax.random.key(0))


@pytest.fixture(scope="module")
def prompts():
    """Twenty prompts of 1 to 16 tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 64, length).tolist() for length in rng.integers(1, 17, 20)]


@pytest.fixture(scope="module")
def sampler():
    """A sampler, and the list of its traces: each entry is one compilation."""
    traces = []

    def bind(params):
        traces.append(1)
        return models.bind(CONFIG, params)

    sample = sampling.make_sampler(bind)
    return functools.partial(sample, key=KEY, max_new_tokens=60, batch_size=16), traces


def draws(logits, choice, num):
    """Tokens drawn from one row of logits with `num` keys."""
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (num, len(logits)))
    keys = jax.random.split(jax.random.key(0), num)
    return np.asarray(jax.jit(sampling.choose)(rows, keys, choice))


@pytest.mark.parametrize("vocab_size", [5, 3000])  # one level of search, and two
def test_frequencies_follow_the_softmax(vocab_size):
    logits = np.random.default_rng(0).normal(size=vocab_size) + np.linspace(0, 5, vocab_size)
    num = 20_000
    counts = np.bincount(draws(logits, Choice(temperature=0.7), num), minlength=vocab_size)
    expected = num * np.array(jax.nn.softmax(jnp.asarray(logits / 0.7)))
    likely = expected > 10
    statistic = np.sum((counts - expected)[likely] ** 2 / expected[likely])
    freedom = likely.sum()  # chi-square: mean n, deviation √(2n)
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom), statistic
    assert abs(counts[~likely].sum() - expected[~likely].sum()) < 5 * np.sqrt(num)


def test_nucleus_is_the_smallest_set_of_enough_mass():
    logits = np.random.default_rng(1).normal(size=(4, 300)) * 3
    weights = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    for top_p in (0.1, 0.5, 0.9, 0.999):
        kept = np.asarray(jax.jit(sampling.nucleus)(weights, top_p))
        for row, kept_row in zip(weights, kept, strict=True):
            order = np.argsort(-row)
            mass = np.cumsum(row[order]) / row.sum()
            expected = order[: np.searchsorted(mass, top_p) + 1]
            np.testing.assert_array_equal(np.flatnonzero(kept_row), np.sort(expected))
            np.testing.assert_array_equal(kept_row[expected], row[expected])


def test_nucleus_and_mask_are_never_left():
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert set(draws(logits, Choice(top_p=0.65), 2000)) == {0, 1}
    assert set(draws(logits, Choice(top_p=1e-9), 200)) == {0}
    allowed = np.array([False, True, False, True])
    assert set(draws(logits, Choice(allowed=allowed), 2000)) == {1, 3}
    assert set(draws(logits, Choice(allowed=allowed, top_p=0.5), 200)) == {1}
    assert set(draws(logits, Choice(temperature=0.0, allowed=allowed), 20)) == {1}


def test_greedy_takes_the_first_of_equal_logits():
    logits = np.zeros(2000)
    logits[[700, 1900]] = 3.0
    assert set(draws(logits, Choice(temperature=0.0), 50)) == {700}


def test_greedy_continuation_is_the_argmax_of_the_whole_text(params, prompts, sampler):
    completions = sampler[0](params, prompts, choice=Choice(0.0))
    apply = jax.jit(functools.partial(models.apply, CONFIG))
    for prompt, completion in zip(prompts[:4], completions, strict=False):
        text = np.zeros(80, np.int32)
        text[: len(prompt) + 60] = prompt + completion
        logits = apply(params, text[None])[0]
        predicted = jnp.argmax(logits, axis=-1)[len(prompt) - 1 : len(prompt) + 59]
        assert predicted.tolist() == completion


def test_completions_depend_on_prompt_and_key_alone(params, prompts, sampler):
    """Neither the batch size, nor padding and bucket, nor the order of work matter."""
    choice = Choice(stop_tokens=tuple(range(6)))
    together = sampler[0](params, prompts, choice=choice)
    assert sampler[0](params, prompts, choice=choice, batch_size=4) == together
    for i in (0, 13):  # alone: another bucket of length, another size of batch, the same key
        state_key = jax.random.fold_in(KEY, i)[None]
        prompt, mask = sampling.pad_left([prompts[i]], 1, 48)
        tokens, kept = jax.jit(
            lambda p, t, m, k: sampling.generate(
                models.bind(CONFIG, p),
                t,
                mask=m,
                keys=k,
                choice=choice._replace(stop_tokens=jnp.arange(6)),
                max_new_tokens=60,
            )
        )(params, prompt, mask, state_key)
        assert tokens[kept].tolist() == together[i]
    lengths = {len(completion) for completion in together}
    assert min(lengths) < 10
    assert len(lengths) > 5
    for completion in together:
        assert not set(completion[:-1]) & set(range(6))  # a stop token ends the row and is kept
        assert len(completion) == 60 or completion[-1] < 6


def test_the_cache_grows_with_what_is_used(params, prompts, sampler, monkeypatch):
    """Attention reads every slot, so there must never be many more than tokens."""
    slots = []

    def decode(model, state, choice, live_rows):
        slots.append((state.cache.segments.shape[1], state.tokens.shape[1]))
        return sampling_decode(model, state, choice, live_rows)

    sampling_decode = sampling.decode
    monkeypatch.setattr(sampling, "decode", decode)
    monkeypatch.setattr(sampling, "_FREE", 8)
    sample = sampling.make_sampler(functools.partial(models.bind, CONFIG))
    few = dict(key=KEY, max_new_tokens=60, choice=Choice(), batch_size=4)
    grown = sample(params, prompts[:4], **few)
    assert sorted({n for n, _ in slots}) == [16 + free for free in (8, 16, 32, 60)]
    monkeypatch.setattr(sampling, "_FREE", 60)
    whole = sampling.make_sampler(functools.partial(models.bind, CONFIG))
    assert whole(params, prompts[:4], **few) == grown


def test_equal_prompts_draw_different_completions(params, sampler):
    completions = sampler[0](params, [[3, 1]] * 16, choice=Choice())
    assert len(set(map(tuple, completions))) == 16
    again = sampler[0](params, [[3, 1]] * 16, choice=Choice())
    assert again == completions
    other = sampler[0](params, [[3, 1]] * 16, choice=Choice(), key=jax.random.key(6))
    assert not set(map(tuple, other)) & set(map(tuple, completions))


def test_settings_are_traced(params, prompts, sampler):
    sample, traces = sampler
    sample(params, prompts, choice=Choice())
    compiled = len(traces)
    for choice in (
        Choice(0.0),
        Choice(0.3, 0.9),
        Choice(1.3, 0.5, stop_tokens=(7, 8)),
        Choice(1.0, 1.0, stop_tokens=list(range(10))),
    ):
        sample(params, prompts, choice=choice)
    assert len(traces) == compiled
    assert compiled <= 5  # prefill and decode at batches of 16 and 4, decode at 1


def test_finished_rows_cost_nothing(params):
    """The loop ends with its last row, and a batch shrinks when most rows are done."""
    everything = jnp.arange(64)
    prompts, mask = map(jnp.asarray, sampling.pad_left([[1, 2], [3]], 4, 16))
    keys = jax.random.split(KEY, 4)

    @jax.jit
    def run(stops, live_rows):
        choice = Choice(stop_tokens=stops)
        model = models.bind(CONFIG, params)
        state = sampling.prefill(
            model, prompts, mask=mask, keys=keys, choice=choice, max_new_tokens=60
        )
        return sampling.decode(model, state, choice, live_rows)

    state = run(everything, 0)
    assert int(state.step) == 1
    assert state.mask.sum() == 2  # one token each, and none for the rows without a prompt
    assert int(run(everything - 64, 0).step) == 60
    assert int(run(everything - 64, 2).step) == 1  # two live rows of four: handed back at once


def test_stacked_models_sample_as_each_alone(prompts):
    params = [models.init(CONFIG, key=jax.random.key(i)) for i in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    tokens, mask = map(jnp.asarray, sampling.pad_left(prompts[:5], 5, 32))
    keys = jax.random.split(KEY, 5)

    def run(params):
        choice = Choice(stop_tokens=jnp.arange(4))
        return sampling.generate(
            models.bind(CONFIG, params),
            tokens,
            mask=mask,
            keys=keys,
            choice=choice,
            max_new_tokens=30,
        )

    together = jax.jit(jax.vmap(run))(stacked)
    alone = jax.jit(run)
    for i in range(3):
        jax.tree.map(
            np.testing.assert_array_equal, alone(params[i]), (together[0][i], together[1][i])
        )
    assert (together[0][0] != together[0][1]).any()


def test_a_mesh_samples_as_one_device(params, prompts, sampler):
    mesh = sharding.make_mesh(data=2, tensor=2)
    sample = sampling.make_sampler(functools.partial(models.bind, CONFIG), mesh=mesh)
    ours = sample(
        sharding.place(mesh, params),
        prompts[:4],
        key=KEY,
        max_new_tokens=60,
        batch_size=4,
        choice=Choice(),
    )
    assert ours == sampler[0](params, prompts[:4], choice=Choice(), batch_size=4)


def test_bad_requests_are_refused(params, sampler):
    with pytest.raises(ValueError, match="has no tokens; start with the bos token"):
        sampler[0](params, [[1], []], choice=Choice())
    with pytest.raises(ValueError, match="272 tokens exceed the context of 256"):
        sampler[0](params, [[1]], max_new_tokens=256, choice=Choice())
