"""Batched sampling with a key-value cache: one jitted prefill and one jitted decode loop.

`generate` is the pure function (it works under `jit` and under `vmap` over stacked parameters);
`make_sampler` wraps it for lists of prompts of any length and number.

Prompts are padded on the left: all rows then end at the same slot, so new keys and values of the
whole batch go to one common slot of the cache, and the last logits sit in one column.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from . import sharding
from .models import Cache, Decoder, Params, empty_cache, to_host, widen_cache

_BLOCK = 256  # tokens per block of the two-level search in `choose`
_SHRINK = 4  # a batch is compacted when it has this many times fewer live rows,
_SHRINK_REST = 32  # and at least so many tokens are still to come
_FREE = 256  # cache slots beyond the prompt at first; doubled when they are full


class State(NamedTuple):
    """A batch of completions in progress; `step` tokens have been chosen so far."""

    cache: Cache
    keys: Key[Array, " B"]  # one per row; `fold_in(key, position)` draws a token
    done: Bool[Array, " B"]
    tokens: Int[Array, "B N"]
    mask: Bool[Array, "B N"]
    step: Int[Array, ""]


class Choice(NamedTuple):
    """How the next token is drawn. All fields are traced: changing them compiles nothing."""

    temperature: Float[Array, ""] | float = 1.0  # 0: the most likely token
    top_p: Float[Array, ""] | float = 1.0  # mass of the nucleus (arXiv:1904.09751)
    stop_tokens: Int[Array, " stops"] | Sequence[int] = ()  # end a row; they are kept
    allowed: Bool[Array, " V"] | None = None  # tokens that may be drawn


def generate(
    model: Decoder,
    prompts: Int[Array, "B P"],
    *,
    mask: Bool[Array, "B P"],
    keys: Key[Array, " B"],
    choice: Choice,
    max_new_tokens: int,
) -> tuple[Int[Array, "B N"], Bool[Array, "B N"]]:
    """Completions and the mask of their tokens, the stop token included.

    Args:
        model: bound decoder.
        prompts: token ids, padded on the left. A row of padding alone stays empty.
        mask: true for the tokens of the prompt.
        keys: one key per row; a row's completion depends on its prompt and its key alone.
        choice: temperature and so on.
        max_new_tokens: N, static.
    """
    state = decode(
        model,
        prefill(model, prompts, mask=mask, keys=keys, choice=choice, max_new_tokens=max_new_tokens),
        choice,
        0,
    )
    return state.tokens, state.mask


def prefill(
    model: Decoder,
    prompts: Int[Array, "B P"],
    *,
    mask: Bool[Array, "B P"],
    keys: Key[Array, " B"],
    choice: Choice,
    max_new_tokens: int,
    free_slots: int | None = None,
) -> State:
    """Read the prompts and choose the first token of each row.

    The cache has `free_slots` for new tokens, `max_new_tokens` if None; static, as that is.
    """
    rows, length = prompts.shape
    slots = length + (max_new_tokens if free_slots is None else free_slots)
    cache = empty_cache(model.config, rows, slots, model.dtype)
    hidden, cache = model.hidden(prompts, mask=mask, cache=cache)
    state = State(
        cache,
        keys,
        ~jnp.any(mask, axis=1),
        jnp.zeros((rows, max_new_tokens), prompts.dtype),
        jnp.zeros((rows, max_new_tokens), bool),
        jnp.zeros((), jnp.int32),
    )
    return _laid_out(_append(model, state, hidden[:, -1], choice))


def decode(model: Decoder, state: State, choice: Choice, live_rows: Int[Array, ""] | int) -> State:
    """Choose tokens until all rows are done, few enough for a smaller batch, or the cache full."""
    length, slots = state.tokens.shape[1], state.cache.segments.shape[1]

    def unfinished(state: State) -> Bool[Array, ""]:
        enough = jnp.where(state.step + _SHRINK_REST <= length, live_rows, 0)
        room = (state.step < length) & (state.cache.index < slots)
        return room & (_live(state.done) > enough)

    def advance(state: State) -> State:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, axis=1)
        hidden, cache = model.hidden(last, cache=state.cache)
        return _append(model, state._replace(cache=cache), hidden[:, 0], choice)

    return _laid_out(jax.lax.while_loop(unfinished, advance, state))


def choose(logits: Float[Array, "B V"], keys: Key[Array, " B"], choice: Choice) -> Int[Array, " B"]:
    """One token per row from softmax(logits / temperature), cut to the nucleus of mass top_p.

    Inverts the cumulative distribution with one uniform number per row: a Gumbel maximum would
    need one per token, which at 50,000 tokens costs more than a small model's decoding step.
    """
    if choice.allowed is not None:
        logits = jnp.where(choice.allowed[None], logits, -jnp.inf)
    gaps = logits - jnp.max(logits, axis=1, keepdims=True)
    greedy = jnp.asarray(choice.temperature) <= 0
    # Greedy is the uniform draw 0 among the tokens of largest logit: the first of them.
    weights = jnp.where(greedy, gaps == 0, jnp.exp(gaps / jnp.where(greedy, 1, choice.temperature)))
    cut = jnp.asarray(choice.top_p) < 1
    weights = jax.lax.cond(cut, nucleus, lambda weights, _: weights, weights, choice.top_p)
    uniforms = jnp.where(greedy, 0, jax.vmap(jax.random.uniform)(keys))
    rows, size = weights.shape
    if size <= 4 * _BLOCK:
        return _search(weights, uniforms)[0]
    blocks = jnp.pad(weights, ((0, 0), (0, -size % _BLOCK))).reshape(rows, -1, _BLOCK)
    block, rest = _search(jnp.sum(blocks, axis=-1), uniforms)
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + _search(inside, rest)[0]


def nucleus(weights: Float[Array, "B V"], top_p: Float[Array, ""]) -> Float[Array, "B V"]:
    """Zero all but the most likely tokens, as few as reach the share `top_p` of the mass.

    The threshold is found by bisection over the bits of positive floats, whose order is that of
    the integers; sorting the vocabulary takes about thirty times as long.
    """
    target = top_p * jnp.sum(weights, axis=1)

    def kept(bits: Int[Array, " B"]) -> Float[Array, "B V"]:
        floor = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return jnp.where(weights >= floor[:, None], weights, 0)

    def halve(_, bounds):
        low, high = bounds  # the mass above `low` reaches the target, above `high` it does not
        middle = (low + high) // 2
        enough = jnp.sum(kept(middle), axis=1) >= target
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    above_one = jnp.full(target.shape, np.float32(1).view(np.int32) + 1)
    low, _ = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(above_one), above_one))
    return kept(low)


class Programs(NamedTuple):
    """The jitted functions of a sampler.

    Attributes:
        start: `prefill` of `(params, prompts, mask, keys, choice, max_new_tokens, free_slots)`.
        proceed: `decode` of `(params, state, choice, live_rows)`; the state is donated.
        widen: the state with so many slots in its cache.
        take: the state of some rows only.
    """

    start: Any
    proceed: Any
    widen: Any
    take: Any


def make_programs(bind: Callable[[Params], Decoder], mesh: Mesh | None = None) -> Programs:
    """What `make_sampler` runs; it can be lowered for devices that are not there."""

    def start(params, prompts, mask, keys, choice, max_new_tokens, free_slots):
        return prefill(
            bind(params),
            prompts,
            mask=mask,
            keys=keys,
            choice=choice,
            max_new_tokens=max_new_tokens,
            free_slots=free_slots,
        )

    def proceed(params, state, choice, live_rows):
        return decode(bind(params), state, choice, live_rows)

    on = (lambda function: function) if mesh is None else functools.partial(sharding.on, mesh)
    return Programs(
        jax.jit(on(start), static_argnums=(5, 6)),
        jax.jit(on(proceed), donate_argnums=1),
        jax.jit(on(_widen), static_argnums=1),
        jax.jit(on(_take)),
    )


def make_sampler(
    bind: Callable[[Params], Decoder], *, mesh: Mesh | None = None
) -> Callable[..., list[list[int]]]:
    """A function that completes lists of prompts, compiled once per bucket of prompt lengths.

        sample = make_sampler(functools.partial(models.bind, config))
        completions = sample(params, prompts, key=key, max_new_tokens=64, choice=Choice(0.7))

    Prompts are sorted by length, padded to the next power of two and run `batch_size` at a time
    (64 unless told). When three quarters of a batch have finished, the rest moves to a batch a
    quarter the size. The cache starts with room for 256 new tokens and doubles when it is full:
    attention reads every slot, so behind the prompt it reads 256 or twice the tokens so far.

    Row i draws from `fold_in(key, numbers[i])`, i itself unless told, so its completion depends
    neither on the batch size nor on the other prompts.

    Args:
        bind: from parameters to a bound decoder, e.g. `models.bind` or `lora.bind`.
        mesh: of the devices that the rows are split over.
    """
    start, proceed, widen, take = make_programs(bind, mesh)
    place = (lambda x: x) if mesh is None else functools.partial(sharding.split_rows, mesh)

    def run(params, rows, keys, choice, max_new_tokens, size) -> list[list[int]]:
        while size // _SHRINK >= len(rows):
            size //= _SHRINK
        prompts, mask = pad_left(rows, size, bucket(max(map(len, rows))))
        index = np.arange(size)  # which prompt each row of the state belongs to
        results: list[list[int]] = [[]] * size
        keys = keys[np.minimum(index, len(rows) - 1)]
        length, free = prompts.shape[1], free_slots(max_new_tokens)
        state = start(params, place(prompts), place(mask), keys, choice, max_new_tokens, free)
        while True:
            state = proceed(params, state, choice, size // _SHRINK)
            shown = (state.tokens, state.mask, state.done, state.step)
            tokens, chosen, done, step = map(to_host, shown)
            done = done | (step == max_new_tokens)
            for row in np.flatnonzero(done):
                results[index[row]] = tokens[row, chosen[row]].tolist()
            if done.all():
                return results[: len(rows)]
            if np.sum(~done) <= size // _SHRINK and step + _SHRINK_REST <= max_new_tokens:
                size //= _SHRINK
                # The live rows, filled up with finished ones, whose results are the same again.
                kept = np.argsort(done, kind="stable")[:size]
                index, state = index[kept], take(state, kept)
            if step > free:  # the last token is not in the cache yet
                free = min(2 * free, max_new_tokens)
                state = widen(state, length + free)

    def sample(
        params: PyTree,
        prompts: Sequence[Sequence[int]],
        *,
        key: Key[Array, ""],
        max_new_tokens: int,
        choice: Choice,
        batch_size: int = 64,
        numbers: Sequence[int] | None = None,
    ) -> list[list[int]]:
        if not all(prompts):
            raise ValueError("a prompt to sample from has no tokens; start with the bos token")
        stops = np.full(bucket(len(choice.stop_tokens)), -1, np.int32)  # -1 is no token
        stops[: len(choice.stop_tokens)] = choice.stop_tokens
        choice = choice._replace(stop_tokens=stops)
        numbers = range(len(prompts)) if numbers is None else numbers
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.array(numbers))
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        completions: list[list[int]] = [[]] * len(prompts)
        for first in range(0, len(order), batch_size):
            rows = order[first : first + batch_size]
            batch = [prompts[i] for i in rows]
            row_keys = keys[np.array(rows)]
            done = run(params, batch, row_keys, choice, max_new_tokens, batch_size)
            for i, completion in zip(rows, done, strict=True):
                completions[i] = completion
        return completions

    return sample


def pad_left(
    rows: Sequence[Sequence[int]], size: int, length: int
) -> tuple[Int[np.ndarray, "size length"], Bool[np.ndarray, "size length"]]:
    """Token ids with zeros on the left and below, and the mask of the real ones."""
    tokens, mask = np.zeros((size, length), np.int32), np.zeros((size, length), bool)
    for i, row in enumerate(rows):
        tokens[i, length - len(row) :] = row
        mask[i, length - len(row) :] = True
    return tokens, mask


def _append(model: Decoder, state: State, hidden: Float[Array, "B width"], choice: Choice) -> State:
    """Choose the next token of each row from its last hidden state and write it down."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
    # Logits go from devices with some tokens of all rows to devices with all tokens of some.
    rows = P(sharding.shared(hidden.shape[0]))
    logits = sharding.constrain(model.unembed(hidden), P(*sharding.BATCH, "tensor"))
    token = choose(sharding.constrain(logits, rows), keys, choice)
    token = sharding.constrain(token, rows).astype(state.tokens.dtype)
    stops = jnp.asarray(choice.stop_tokens, token.dtype)
    live = ~state.done
    write = jax.lax.dynamic_update_slice_in_dim
    return state._replace(
        tokens=write(state.tokens, jnp.where(live, token, 0)[:, None], state.step, axis=1),
        mask=write(state.mask, live[:, None], state.step, axis=1),
        done=state.done | jnp.any(token[:, None] == stops[None], axis=1),
        step=state.step + 1,
    )


def _search(weights: Float[Array, "B n"], uniforms: Float[Array, " B"]):
    """Index whose share of the running sum holds each uniform number, and where inside it."""
    sums = jnp.cumsum(weights, axis=1)
    target = uniforms * sums[:, -1]
    places = jnp.arange(weights.shape[1])[None]
    # Rounded running sums may pass the target at a weight of zero: such a token is never taken.
    first = jnp.min(
        jnp.where((sums > target[:, None]) & (weights > 0), places, weights.shape[1]), axis=1
    )
    index = jnp.minimum(first, jnp.max(jnp.where(weights > 0, places, 0), axis=1))
    weight, end = (jnp.take_along_axis(x, index[:, None], axis=1)[:, 0] for x in (weights, sums))
    return index, jnp.clip(1 - (end - target) / weight, 0, 1 - 2**-23)


@jax.custom_batching.custom_vmap
def _live(done: Bool[Array, " B"]) -> Int[Array, ""]:
    """Number of unfinished rows; under `vmap` the most over the models.

    The loop then stops for all models at once. A stop of its own for each would make every step
    copy the whole cache, to keep that of the models which have finished.
    """
    return jnp.sum(~done)


@_live.def_vmap
def _live_of_many(axis_size, in_batched, done):
    del axis_size, in_batched
    return jnp.max(jnp.sum(~done, axis=-1)), False


def _widen(state: State, slots: int) -> State:
    """The state with `slots` slots in its cache."""
    return _laid_out(state._replace(cache=widen_cache(state.cache, slots)))


def _take(state: State, rows: Int[Array, " kept"]) -> State:
    """The state of some rows only."""
    return _laid_out(jax.tree.map(lambda x: x if x.ndim == 0 else x[rows], state))


def _laid_out(state: State) -> State:
    """The state split over a mesh by rows, the cache also by heads; so all programs agree on it."""

    def split(x: Array) -> Array:
        cached = x.ndim == 4  # [rows, heads, slots, width]
        spec = P(*sharding.attending(*x.shape[:2])) if cached else sharding.BATCH
        return sharding.constrain(x, spec)

    return jax.tree.map(split, state)


def free_slots(max_new_tokens: int) -> int:
    """Slots behind the prompt that a cache has at first."""
    return min(_FREE, max_new_tokens)


def bucket(length: int) -> int:
    """The next power of two, at least 16."""
    return 1 << max(4, (length - 1).bit_length())
