"""What students show along their training: one program, with measurements between blocks of steps.

The training is that of the recipes, step by step: what is measured last is the recipe's student.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.frame.record import Row
from experiments.language.kit.chains import Cohort
from llm import engines, models
from llm.engines.common import Tokens
from llm.stages import Store, Student, evaluation, streams, students
from llm.stages.bases import unseen_turns
from llm.stages.streams import Stage
from llm.training import Training, batches, lora, objectives, stack, train


class Curves(NamedTuple):
    """Measurements of every student before training and behind every block of steps."""

    steps: np.ndarray  # taken, (points,)
    # By name; (students, points), or (students, points, traits).
    columns: dict[str, np.ndarray]

    def at(self, point: int) -> "Curves":
        """One point alone."""
        return Curves(
            self.steps[[point]], {name: all[:, [point]] for name, all in self.columns.items()}
        )


def along(store: Store, recipes: Sequence[Student], traits: Sequence[str], blocks: int) -> Curves:
    """Train students of one program, side by side, and measure them `blocks` times on the way.

    Columns: margin, the log-odds of every trait in nats, and mass, the share of answers that they
    are taken over; kl, KL(teacher ‖ student) on held-out rows in nats a token; text_loss, the
    cross-entropy on turns of the corpus that nobody was trained on, in the same unit.
    """
    recipes = store.prepare(recipes)
    one = recipes[0]
    config, how = store.config(one), one.training
    examples, tests = zip(*(students.given_to(store, r) for r in recipes), strict=True)
    run = _program(config, how, soft=one.soft, tokens=one.tokens, blocks=blocks)
    measured = run(
        store.weights([r.base for r in recipes]),
        stack.stack_examples(examples),
        stack.stack_examples(tests),
        streams.keys(Stage.STUDENT, [(r.seed, r.chain, r.draw) for r in recipes]),
        store.weights([students.teacher_of(r) for r in recipes]),
        tuple(evaluation.question(store, one, trait) for trait in traits),
    )
    steps = np.arange(blocks + 1) * (how.steps // blocks)
    return Curves(steps, jax.tree.map(np.asarray, measured))


@functools.cache
def _program(
    config: models.ModelConfig, how: Training, *, soft: bool, tokens: Tokens | None, blocks: int
) -> Callable[..., Any]:
    loss, student = engines.make_loss(config, how, soft=soft, tokens=tokens)
    step = stack.make_step(loss, how)
    far = objectives.distillation_loss(student, lambda f: models.bind(config, f["teacher"]))
    texts = jax.tree.map(jnp.asarray, unseen_turns())

    def observe(params, frozen, tests, probes):
        total, weight = far(params, frozen, tests._asdict(), jax.random.key(0))
        model = student(params, frozen, jax.random.key(0))
        asked = [stack.measure_model(model, probe) for probe in probes]
        by_trait = {name: jnp.stack([one[name] for one in asked]) for name in ("margin", "mass")}
        return by_trait | {"kl": total / weight, "text_loss": stack.loss_of_model(model, texts)}

    def one(probes, start, examples, tests, key, teacher):
        params, frozen = start, {"base": start, "teacher": teacher}
        if how.adapters is not None:
            params = lora.init(how.adapters, start, key=key)
        order_key, dropout_key = jax.random.split(key)
        order = batches.all_batch_rows(order_key, how.steps, len(examples.tokens), how.batch_size)
        return stack.observed(
            stack.over_rows(step, examples, key=dropout_key, frozen=frozen),
            train.init_state(params, how.make_optimizer()),
            order=order,
            blocks=blocks,
            observe=lambda params: observe(params, frozen, tests, probes),
        )

    return jax.jit(lambda *args: stack.over_runs(functools.partial(one, args[-1]), *args[:-1]))


def rows(cohort: Cohort, measured: Curves, traits: Sequence[str], **columns: Any) -> list[Row]:
    """Tidy rows: a student, point and trait each, with the column "step" and those measured."""

    def of(column: np.ndarray, *place: int) -> float:
        return float(column[place[: column.ndim]])

    entries = [
        {"model": i, "trait": trait, "step": int(step)}
        | {name: of(column, i, t, u) for name, column in measured.columns.items()}
        for i in range(len(cohort.models))
        for t, step in enumerate(measured.steps)
        for u, trait in enumerate(traits)
    ]
    return cohort.rows(entries, **columns)
