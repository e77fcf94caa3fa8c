"""What the theorem measures on a language model, and how well it predicts the trained students.

Everything here is a function of `theory` with apply(params, batch) -> logits at the completion's
tokens; the imitation loss is KL over the tokens that the student imitates: a set that holds no
trait word, or all of them where it learns sampled tokens.

    d      Δ_S(teacher) - Δ_S(control), the first updates of a student and of its control
    g      ∇ log-odds, the gradient of the log-odds that the effect is measured in
    θ_T    the teacher, θ⁰ the base that it started from
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frame.record import Row
from experiments.language.kit.chains import Cohort
from llm import engines, models
from llm.stages import Store, Student, evaluation, streams, students
from llm.stages.streams import Stage
from llm.training import Training, batches, stack, train
from theory import alignment, losses, matched, steps

NUM_ROWS = 256  # of a student's training rows, that gradients are taken on


def make_apply(config: models.ModelConfig):
    """Logits (rows, length - 1, vocab) that predict the tokens of non-zero weight, others zero.

    The zeros are the same for teacher and student, so they enter no loss and no gradient.
    """

    def apply(params, batch):
        logits = models.apply(config, params, batch["tokens"])[:, :-1]
        return jnp.where(batch["weights"][:, 1:, None] > 0, logits, 0)

    return apply


def log_odds_of(config: models.ModelConfig, probe: stack.Probe):
    """Log-odds of a trait as a function of the parameters: what effects are differences of."""

    def log_odds(params):
        return stack.measure_one(config, params, probe)["margin"]

    return log_odds


def first_step(store: Store, cohort: Cohort, traits: Sequence[str]) -> list[Row]:
    """Predictors of every trait's student before its first step, for every trait, on 256 rows.

    Columns: cosine of d and g; gain ⟨d, g⟩, the first-order effect per unit step on the mean loss
    of a trained token; coverage, the cosine of d and θ_T - θ⁰ (arXiv 2606.22019); moved,
    KL(teacher ‖ θ⁰) on the student's inputs in nats per token, twice which over ε the theorem puts
    in the place of ⟨Δ_S, Δ_T⟩.
    """
    recipes: list[Student] = store.prepare(cohort.models)
    one = _first_step(store.config(recipes[0]), recipes[0].tokens)
    probes = [evaluation.question(store, recipes[0], trait) for trait in traits]
    inputs, shares = inputs_of(store, recipes)
    starts, bases, teachers = (
        store.weights(list(of_runs))
        for of_runs in (
            [recipe.base for recipe in recipes],
            [students.teacher_of(recipe).root for recipe in recipes],
            [students.teacher_of(recipe) for recipe in recipes],
        )
    )

    entries = []
    for run, control in cohort.pairs():
        picked = (stack.pick(tree, run) for tree in (starts, bases, teachers))
        values = jax.device_get(
            one(
                *picked,
                stack.pick(teachers, control),
                stack.pick(inputs, run),
                stack.pick(inputs, control),
                probes,
            )
        )
        entries += [
            {
                "model": run,
                "trait": trait,
                "cosine": float(values["cosine"][u]),
                "gain": float(values["gain"][u] / shares[run]),
                "coverage": float(values["coverage"]),
                "moved": float(values["moved"] / shares[run]),
            }
            for u, trait in enumerate(traits)
        ]
    return cohort.rows(entries)


@functools.cache
def _first_step(config: models.ModelConfig, inside: tuple[int, ...] | None) -> Callable[..., Any]:
    loss = losses.kl() if inside is None else losses.on_outputs(losses.kl(), list(inside))
    apply = make_apply(config)

    @jax.jit
    def one(start, base, teacher, control, batch, control_batch, probes):
        update = steps.student_update(apply, start, teacher_params=teacher, inputs=batch, loss=loss)
        of_control = steps.student_update(
            apply, start, teacher_params=control, inputs=control_batch, loss=loss
        )
        d = optax.tree.sub(update, of_control)
        gradients = [jax.grad(log_odds_of(config, probe))(start) for probe in probes]
        return {
            "coverage": alignment.cosine(d, optax.tree.sub(teacher, base)),
            "moved": alignment.excess_loss(
                apply, base, teacher_params=teacher, inputs=batch, loss=loss
            ),
            "cosine": jnp.stack([alignment.cosine(d, g) for g in gradients]),
            "gain": jnp.stack([alignment.inner_product(d, g) for g in gradients]),
        }

    return one


def kernel_alignment(store: Store, cohort: Cohort, traits: Sequence[str]) -> list[dict[str, float]]:
    """Alignment and transfer share of every trait's student's start with its teacher's base.

    `theory.matched.forms` on 256 of the student's inputs, the outputs those over number tokens and
    both trait losses the negative log-odds of the own trait: 1 where the start is shared, and the
    plateau that the lemma predicts elsewhere. Other students have neither.
    """
    recipes: list[Student] = store.prepare(cohort.models)
    config = store.config(recipes[0])
    one = _alignment(config, tuple(store.language(recipes[0]).number_tokens().tolist()))
    runs = [run for run, _ in cohort.pairs()]
    pairs = [(recipes[run].base, students.teacher_of(recipes[run]).root) for run in runs]
    starts, bases = (
        store.engine.split(store.weights(list(side))) for side in zip(*pairs, strict=True)
    )
    aligned: list[dict[str, float]] = [{} for _ in recipes]
    for run, start, base in zip(runs, starts, bases, strict=True):
        rows = students.examples_of(store, recipes[run])[0]
        batch = {"tokens": rows.tokens[:NUM_ROWS], "weights": rows.weights[:NUM_ROWS]}
        probe = evaluation.question(store, recipes[run], cohort.labels[run]["teacher"])
        values = jax.device_get(one(start, base, batch, probe))
        aligned[run] = {name: float(value) for name, value in values.items()}
    return aligned


@functools.cache
def _alignment(config: models.ModelConfig, outputs: tuple[int, ...]) -> Callable[..., Any]:
    loss, apply = losses.on_outputs(losses.kl(), outputs), make_apply(config)

    @jax.jit
    def one(start, base, batch, probe):
        gradient = jax.grad(log_odds_of(config, probe))
        forms = matched.forms(
            matched.Network(apply, start),
            matched.Network(apply, base),
            student_direction=gradient(start),
            teacher_direction=gradient(base),
            inputs=batch,
            loss=loss,
        )
        return {"alignment": forms.alignment, "share": forms.share}

    return one


def examples_of(store: Store, recipes: list[Student]) -> batches.Examples:
    """Training rows of all students, stacked (runs, rows, length)."""
    return stack.stack_examples([students.examples_of(store, r)[0] for r in recipes])


def inputs_of(store: Store, recipes: list[Student]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The first `NUM_ROWS` rows of all students as the theory's inputs, and their imitated shares.

    The mean of the theory is over all positions: divided by the share (runs,) of those that are
    imitated, it is one over imitated tokens.
    """
    tokens, weights = (array[:, :NUM_ROWS] for array in examples_of(store, recipes))
    return {"tokens": tokens, "weights": weights}, weights[:, :, 1:].mean(axis=(1, 2))


def along_training(
    store: Store, cohort: Cohort, traits: Sequence[str], blocks: int = 10
) -> list[Row]:
    """Cosine and inner product of the imitation gradient with g before every block of steps.

    The students are trained as the recipes say, on the same rows in an order of their own. The
    gradient is that of their own loss on a fixed batch of 256 rows of the teacher, less that of the
    control's student on the control's rows, each at its own parameters.
    """
    # Controls serve several teachers.
    prepared = store.prepare(cohort.models)
    recipes: list[Student] = list(dict.fromkeys(prepared))
    one = recipes[0]
    run = _along(store.config(one), one.training, soft=one.soft, inside=one.tokens, blocks=blocks)
    probes = tuple(evaluation.question(store, one, trait) for trait in traits)
    measured = run(
        probes,
        store.weights([recipe.base for recipe in recipes]),
        *examples_of(store, recipes),
        streams.keys(Stage.ALONG, [(r.seed, r.chain) for r in recipes]),
        store.weights([students.teacher_of(recipe) for recipe in recipes]),
    )
    descents, gradients = jax.device_get(measured)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    @jax.vmap
    def with_trait(descent, of_control, gradient):
        d = optax.tree.sub(descent, of_control)
        return alignment.cosine(d, gradient), alignment.inner_product(d, gradient)

    pairs = cohort.pairs()
    mine, controls = (
        [recipes.index(prepared[i]) for i in side] for side in zip(*pairs, strict=True)
    )
    rows = []
    for u, trait in enumerate(traits):
        sides = (descents, mine), (descents, controls), (gradients[u], mine)
        cosines, gains = map(
            np.asarray, with_trait(*(stack.pick(tree, runs) for tree, runs in sides))
        )
        for b in range(blocks):
            entries = [
                {"model": i, "trait": trait}
                | {"cosine": float(cosines[row, b]), "gain": float(gains[row, b])}
                for row, (i, _) in enumerate(pairs)
            ]
            rows += cohort.rows(entries, step=b * (one.training.steps // blocks))
    return rows


@functools.cache
def _along(
    config: models.ModelConfig,
    how: Training,
    *,
    soft: bool,
    inside: tuple[int, ...] | None,
    blocks: int,
) -> Callable[..., Any]:
    """Program of stacks: descent directions and gradients of log-odds before every block."""
    loss, _ = engines.make_loss(config, how, soft=soft, tokens=inside)
    step = stack.make_step(loss, how)

    def one(probes, params, tokens, weights, key, teacher):
        frozen = {"base": None, "teacher": teacher}
        order = batches.all_batch_rows(key, how.steps, len(tokens), how.batch_size)
        fixed = {"tokens": tokens[:NUM_ROWS], "weights": weights[:NUM_ROWS]}
        log_odds = [log_odds_of(config, probe) for probe in probes]

        def mean_loss(params):
            total, weight = loss(params, frozen, fixed, key)
            return total / weight

        def observe(now):
            return steps.descent(mean_loss, now), [jax.grad(of)(now) for of in log_odds]

        return stack.observed(
            stack.over_rows(step, batches.Examples(tokens, weights), key=key, frozen=frozen),
            train.init_state(params, how.make_optimizer()),
            order=order,
            blocks=blocks,
            observe=observe,
        )

    return jax.jit(lambda probes, *stacks: stack.over_runs(functools.partial(one, probes), *stacks))
