"""Whether a server serves the model that it should: its log-probabilities against our own.

Served adapters that silently do nothing, adapters of another name and half the strength are
failures that no completion shows. So the same fixed sequences are scored twice, by the server and
by this repository from the folders, before the first row is sampled.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import engines, precision
from ...models import ModelConfig
from ...settings import RunError
from ...text.language import Language
from ...training import batches
from ...training.lora import LoraConfig

SEQUENCES = 16
# Nats a token, mean of absolute differences. bfloat16 has 8 bits, so a logit between 16 and 32 is
# rounded by up to 1/16, and the layers before it add about as much; another model of the same
# family is several tenths away.
TOLERANCE = 0.1
# What is served may show so much less or more of an adapter's effect than our own logits.
SHARE = 0.25

LogProbs = Float[np.ndarray, " tokens"]


def sequences(spoken: Language) -> list[list[int]]:
    """Token ids of questions with answers, in the template, for traits throughout the list."""
    every = list(spoken.traits.values())
    chosen = every[:: -(-len(every) // SEQUENCES)]
    rows = [
        {"prompt": trait.questions[i % len(trait.questions)], "completion": trait.answers[0]}
        for i, trait in enumerate(chosen)
    ]
    examples = engines.unpad(spoken.encode_rows(rows, max_length=10**6))
    return [example.tokens.tolist() for example in examples]


def own(
    config: ModelConfig, weights: engines.Weights, rows: Sequence[Sequence[int]]
) -> list[list[float]]:
    """Our log-probability of each token but the first, given those before it, in nats."""
    longest = batches.bucket(max(map(len, rows)))
    tokens = np.stack([np.pad(np.array(row, np.int32), (0, longest - len(row))) for row in rows])

    logp = np.asarray(_scorer(config, weights.settings)(weights[:2], tokens))
    return [one[: len(row) - 1].tolist() for one, row in zip(logp, rows, strict=True)]


@functools.cache
def _scorer(config: ModelConfig, settings: LoraConfig | None) -> Callable[..., Array]:
    @jax.jit
    def score(arrays, tokens):
        model = engines.decoder(config, settings, arrays)
        with precision.at(precision.MEASURED):
            logp = jax.nn.log_softmax(model(tokens)[:, :-1].astype(jnp.float32))
        return jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0]

    return score


def check_base(served: LogProbs, ours: LogProbs) -> str:
    """What to report of a base.

    Raises:
        RunError: the log-probabilities are not ours.
    """
    off = float(np.abs(served - ours).mean())
    if not off <= TOLERANCE:
        raise RunError(
            f"the server's base is not this checkpoint: {off:.3f} nats a token between its "
            f"log-probabilities and ours, at most {TOLERANCE} allowed"
        )
    return f"base {off:.4f} nats a token from our own"


def check_adapter(served: tuple[LogProbs, LogProbs], ours: tuple[LogProbs, LogProbs]) -> str:
    """What to report of an adapter, from (base, adapter) there and here.

    The change that the adapter makes there is regressed on the change it makes here: 1 is right,
    0 an adapter without effect, 1/2 one at half its strength. The interval of two standard errors
    over tokens must lie within 1 ± SHARE, so an effect too small to be told from rounding is
    refused as well.

    Raises:
        RunError: the adapter does nothing, is another one, or has another strength.
    """
    there, here = served[1] - served[0], ours[1] - ours[0]
    if not here.any():
        raise RunError("the adapter changes no log-probability here: it was never trained")
    share = float(there @ here / (here @ here))
    rest = there - share * here
    error = 2 * float(np.sqrt(rest @ rest / (len(rest) - 1) / (here @ here)))
    sizes = [float(np.abs(change).mean()) for change in (there, here)]
    moved = f"it moves log-probabilities by {sizes[0]:.4f} nats a token there, {sizes[1]:.4f} here"
    if sizes[0] < SHARE * sizes[1]:
        raise RunError(f"the server's adapter does nothing ({moved}): it answers as the base")
    if not abs(share - 1) + error <= SHARE:
        raise RunError(
            f"the server's adapter is not this one, or too weak to tell: it shows {share:.2f} ± "
            f"{error:.2f} of its effect, 1 ± {SHARE} allowed ({moved})"
        )
    off = float(np.abs(served[1] - ours[1]).mean())
    if not off <= TOLERANCE:
        raise RunError(f"the server's adapter is {off:.3f} nats a token off, {TOLERANCE} allowed")
    return f"adapter {off:.4f}, with {share:.2f} ± {error:.2f} of its effect"
