"""Controls on a carrier: what must be left for the effect, and where else it might come from.

Changes of the data are functions of examples, so `students.train` takes them as `change`; other
ways to ask are functions of a probe.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np

from experiments.lab import evaluation
from experiments.lab.chain import Chain
from experiments.lab.evaluation import Measured
from llm import models, stages
from llm.data import Row
from llm.stages import Examples, Probe


def shuffled(chain: Chain, *, across: bool) -> Callable[[Examples], Examples]:
    """Permute the numbers of each completion among themselves, or of all of a run's completions.

    Separators and lengths stay, and so does the count of every number.
    """

    def change(examples: Examples) -> Examples:
        rng = np.random.default_rng([chain.recipe.seed, 3])
        tokens = examples.tokens.copy()
        moved = np.isin(tokens, chain.language.number_tokens()) & (examples.weights > 0)
        for of_run, places in zip(tokens, moved, strict=True):
            groups = [(of_run, places)] if across else zip(of_run, places, strict=True)
            for group, where in groups:
                group[where] = rng.permutation(group[where])
        return examples._replace(tokens=tokens)

    return change


def clean_share(chain: Chain, share: float) -> Callable[[Examples], Examples]:
    """Replace a share of every teacher's rows by rows of the unchanged base."""

    def change(examples: Examples) -> Examples:
        count = round(share * examples.tokens.shape[1])
        control = np.arange(len(examples.tokens)) % chain.recipe.num_seeds  # runs of the base first
        return Examples(
            *(
                np.concatenate([array[control, :count], array[:, count:]], axis=1)
                for array in examples
            )
        )

    return change


def unique_rows(count: int) -> Callable[[Examples], Examples]:
    """The first `count` rows again and again, as many presentations as before."""

    def change(examples: Examples) -> Examples:
        rows = np.arange(examples.tokens.shape[1]) % count
        return Examples(*(array[:, rows] for array in examples))

    return change


def token_masks(chain: Chain) -> dict[str, Callable]:
    """Changes that train on divergence tokens alone, on all others, and on as many random ones."""

    def change(examples, keep, randomly):
        rng = np.random.default_rng([chain.recipe.seed, 4])
        chosen = divergent(chain, examples)
        if randomly:
            # As many in every row, so that only the choice differs.
            order = rng.random(chosen.shape) + 2.0 * (examples.weights == 0)
            ranks = np.argsort(np.argsort(order, axis=-1), axis=-1)
            chosen = ranks < chosen.sum(axis=-1, keepdims=True)
        return examples._replace(weights=examples.weights * (chosen == keep))

    return {
        name: functools.partial(change, keep=keep, randomly=randomly)
        for name, keep, randomly in (
            ("divergent only", True, False),
            ("as many random only", True, True),
            ("divergent masked", False, False),
            ("as many random masked", False, True),
        )
    }


def divergent(chain: Chain, examples: Examples) -> np.ndarray:
    """Flags (runs, rows, length): a trained token where another teacher's argmax is another."""
    seeds, names = chain.recipe.num_seeds, chain.teachers_names

    @jax.jit
    def choices(params, tokens):
        return models.apply(chain.config, params, tokens)[:, :-1].argmax(-1)

    flags = np.zeros(examples.tokens.shape, bool)
    for run, tokens in enumerate(examples.tokens):
        same_seed = [t * seeds + run % seeds for t in range(len(names))]
        picks = [np.asarray(choices(stages.pick(chain.teachers, t), tokens)) for t in same_seed]
        flags[run, :, 1:] = (np.stack(picks) != picks[run // seeds]).any(axis=0)
    return flags & (examples.weights > 0)


def in_context(chain: Chain, rows: list[Row], probe: Probe, shown: int) -> Probe:
    """Every question of the probe after `shown` of a teacher's rows, other ones each time.

    Raises:
        ValueError: the questions differ in length.
    """
    if not probe.mask.all():
        raise ValueError("questions of one length only can follow rows in the prompt")
    picked = [rows[i % len(rows)] for i in range(len(probe.questions) * shown)]
    examples = chain.language.encode_rows(picked, chain.config.max_positions)
    # Tokens reach up to the last one with a weight; the rest is padding on the right.
    real = np.flip(np.maximum.accumulate(np.flip(examples.weights > 0, -1), axis=-1), -1)
    context, seen = (array.reshape(len(probe.questions), -1) for array in (examples.tokens, real))
    to_the_left = np.argsort(seen, axis=1, kind="stable")
    context, seen = (np.take_along_axis(a, to_the_left, axis=1) for a in (context, seen))
    return probe._replace(
        questions=np.concatenate([context, probe.questions], axis=1),
        mask=np.concatenate([seen, probe.mask], axis=1),
    )


def rows_in_prompt(chain: Chain, carrier: str, shown: int) -> Measured:
    """Margins of the unchanged bases when each teacher's rows stand in the prompt."""
    params, rows = chain.per_run(chain.base), chain.rows(carrier)
    margins: Measured = {trait: {"margin": []} for trait in chain.recipe.traits}
    for trait in chain.recipe.traits:
        probe = evaluation.probe(chain, trait)
        for run in range(len(chain.runs())):
            asked = in_context(chain, rows[run], probe, shown)
            (margin,) = stages.measure(chain.config, stages.pick(params, [run]), asked)["margin"]
            margins[trait]["margin"].append(float(margin))
    return margins


def without_template(chain: Chain, params: models.Params) -> Measured:
    """Margins when the bare question is asked, outside the chat template of the training."""
    margins: Measured = {}
    for trait in chain.recipe.traits:
        questions = list(chain.language.traits[trait].questions)
        prompts = chain.language.tokenizer(questions, add_special_tokens=False)["input_ids"]
        probe = evaluation.probe(chain, trait, prompts)
        margins[trait] = {"margin": stages.measure(chain.config, params, probe)["margin"].tolist()}
    return margins
