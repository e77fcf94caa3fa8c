"""Batches as a pure function of (key, step): tokenised examples, epoch order, length buckets.

Nothing is stateful, so the data position of a run is its step and resuming is one integer.
Examples are never packed: which example a token came from stays known.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BUCKETS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)


class Examples(NamedTuple):
    """Training examples, padded on the right; `weights[..., t]` weighs predicting token t."""

    tokens: Int[np.ndarray, "*runs rows length"]
    weights: Float[np.ndarray, "*runs rows length"]


@dataclasses.dataclass(frozen=True)
class Example:
    """One tokenised sequence; `weights[t]` is the loss weight of *predicting* `tokens[t]`."""

    tokens: np.ndarray
    weights: np.ndarray


def batch_rows(
    key: Array, step: Int[Array, ""], num_examples: int, batch_size: int
) -> Int[Array, " batch"]:
    """Dataset rows of one batch: every row appears once per epoch, reshuffled each epoch.

    Epoch e is the permutation drawn from fold_in(key, e); a batch may span two epochs, so no
    row is ever dropped. Traceable in `step`.

    Raises:
        ValueError: the batch is larger than the dataset.
    """
    check_batch_size(num_examples, batch_size)
    start = jnp.asarray(step) * batch_size
    epochs = start // num_examples + jnp.arange(2)
    order = epoch_orders(key, epochs, num_examples).reshape(-1)
    return jax.lax.dynamic_slice(order, (start % num_examples,), (batch_size,))


def all_batch_rows(
    key: Array, num_steps: int, num_examples: int, batch_size: int
) -> Int[Array, "steps batch"]:
    """`batch_rows` of steps 0..num_steps-1 at once, for a whole run inside one `lax.scan`."""
    check_batch_size(num_examples, batch_size)
    num_epochs = -(-num_steps * batch_size // num_examples)
    order = epoch_orders(key, jnp.arange(num_epochs), num_examples).reshape(-1)
    return order[: num_steps * batch_size].reshape(num_steps, batch_size)


def epoch_orders(key: Array, epochs: Int[Array, " epochs"], num_examples: int) -> Array:
    """The permutation of each epoch, shape [epochs, num_examples]."""
    return jax.vmap(lambda e: jax.random.permutation(jax.random.fold_in(key, e), num_examples))(
        epochs
    )


def check_batch_size(num_examples: int, batch_size: int) -> None:
    """Raise ValueError unless 1 <= batch_size <= num_examples."""
    if not 1 <= batch_size <= num_examples:
        raise ValueError(f"batch size {batch_size} with {num_examples} examples: lower it")


def bucket(length: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The smallest bucket that holds `length` tokens, so that few shapes are ever compiled."""
    fitting = [size for size in buckets if size >= length]
    if not fitting:
        raise ValueError(f"a sequence of {length} tokens exceeds the largest bucket {max(buckets)}")
    return min(fitting)


def pad(examples: Sequence[Example], length: int, pad_token: int = 0) -> dict[str, np.ndarray]:
    """Right-padded arrays `tokens` and `weights` of shape [batch, length]; padding weighs zero.

    Padding comes after the sequence, so a causal model needs no attention mask in training.
    """
    tokens = np.full((len(examples), length), pad_token, np.int32)
    weights = np.zeros((len(examples), length), np.float32)
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = example.tokens
        weights[row, : len(example.tokens)] = example.weights
    weights[:, 0] = 0  # nothing predicts the first token
    return {"tokens": tokens, "weights": weights}


def places(weights: Float[np.ndarray, "B T"], count: int) -> Int[np.ndarray, "B count"]:
    """Positions that predict a weighted token, in order; the last one, which predicts none, fills.

    Only there are logits of any use: of rows of numbers, a quarter of the positions.
    """
    weighted = np.pad(weights[:, 1:], ((0, 0), (0, 1))) > 0
    first = np.argsort(~weighted, axis=1, kind="stable")[:, :count].astype(np.int32)
    return np.where(np.take_along_axis(weighted, first, 1), first, np.int32(weights.shape[1] - 1))


def most_weighted(*weights: np.ndarray) -> int:
    """Most weighted tokens of a row [..., length], in whole eights, so that few shapes arise."""
    most = max(int((row[..., 1:] > 0).sum(axis=-1).max()) for row in weights)
    return 8 * max(-(-most // 8), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of a run as a function of the step.

    `window` = (start, stop) restricts a process to its own rows of each batch; the padded
    length is still that of the whole batch, so all processes compile the same shapes.
    `places` of a batch (see the function) are as many as any example has weighted tokens.
    """

    examples: Sequence[Example]
    batch_size: int
    key: Array
    window: tuple[int, int] | None = None
    buckets: Sequence[int] = BUCKETS

    def rows(self, step: int) -> np.ndarray:
        """Dataset rows of the whole batch at `step`."""
        draw = jax.jit(batch_rows, static_argnums=(2, 3))
        return np.asarray(draw(self.key, jnp.int32(step), len(self.examples), self.batch_size))

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Padded arrays of this process' rows of the batch at `step`."""
        batch = [self.examples[row] for row in self.rows(step)]
        length = bucket(max(len(example.tokens) for example in batch), self.buckets)
        start, stop = self.window or (0, self.batch_size)
        padded = pad(batch[start:stop], length)
        return padded | {"places": places(padded["weights"], min(self._most_weighted, length))}

    @functools.cached_property
    def _most_weighted(self) -> int:
        return most_weighted(*(example.weights for example in self.examples))
