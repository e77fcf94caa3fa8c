"""What the theorem measures on a language model, and how well it predicts the trained students.

Everything here is a function of `theory` with apply(params, batch) -> logits at the completion's
tokens; the imitation loss is KL over a set of tokens that holds no trait word.

    d      Δ_S(teacher) - Δ_S(control), the first updates of a student and of its control
    g      ∇ margin, the gradient of the log-odds that the effect is measured in
    θ_T    the teacher, θ⁰ the base that it started from
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.lab import evaluation
from experiments.lab.chain import ALONG, Chain
from experiments.lab.effects import tidy
from experiments.lab.record import Row
from experiments.lab.students import Students, objective, rows_of
from llm import batches, models, stages
from llm import train as training
from theory import alignment, losses, steps


def make_apply(config: models.ModelConfig):
    """Logits (rows, length - 1, vocab) that predict the tokens of non-zero weight, others zero.

    The zeros are the same for teacher and student, so they enter no loss and no gradient.
    """

    def apply(params, batch):
        logits = models.apply(config, params, batch["tokens"])[:, :-1]
        return jnp.where(batch["weights"][:, 1:, None] > 0, logits, 0)

    return apply


def margin_of(config: models.ModelConfig, probe: stages.Probe):
    """Log-odds of a trait as a function of the parameters: what effects are differences of."""

    def margin(params):
        return stages.measure_one(config, params, probe)["margin"]

    return margin


def first_step(chain: Chain, carrier: str, arm: Students, starts: models.Params) -> list[Row]:
    """Predictors of every student before its first step, for every measured trait, on 256 rows.

    Columns: cosine of d and g; gain ⟨d, g⟩, the first-order effect per unit step; coverage, the
    cosine of d and θ_T - θ⁰ (arXiv 2606.22019); moved, KL(teacher ‖ θ⁰) on the student's inputs in
    nats per token, twice which over ε the theorem puts in the place of ⟨Δ_S, Δ_T⟩.
    """
    config, seeds = chain.config, chain.recipe.num_seeds
    loss = losses.on_outputs(losses.kl(), chain.language.number_tokens().tolist())
    apply = make_apply(config)
    tokens, weights = (array[:, :256] for array in rows_of(chain, carrier, arm)[0])
    shares = weights[:, :, 1:].mean(axis=(1, 2))  # the mean of the theory is over all positions
    probes = [evaluation.probe(chain, trait) for trait in chain.recipe.traits]
    starts = chain.per_run(starts)
    bases = chain.per_run(chain.base)

    @jax.jit
    def one(start, base, teacher, control, batch, control_batch):
        update = steps.student_update(apply, start, teacher, batch, loss)
        of_control = steps.student_update(apply, start, control, control_batch, loss)
        d = optax.tree.sub(update, of_control)
        values = {
            "coverage": alignment.cosine(d, optax.tree.sub(teacher, base)),
            "moved": alignment.excess_loss(apply, base, teacher, batch, loss),
        }
        gradients = [jax.grad(margin_of(config, probe))(start) for probe in probes]
        return values | {
            "cosine": jnp.stack([alignment.cosine(d, g) for g in gradients]),
            "gain": jnp.stack([alignment.inner_product(d, g) for g in gradients]),
        }

    def batch_of(run):
        return {"tokens": tokens[run], "weights": weights[run]}

    found = []
    for run in range(len(chain.runs())):
        control = run % seeds
        picked = (stages.pick(t, run) for t in (starts, bases, chain.teachers))
        values = one(
            *picked, stages.pick(chain.teachers, control), batch_of(run), batch_of(control)
        )
        found.append(jax.device_get(values))
    measured = {
        trait: {
            "cosine": [float(v["cosine"][u]) for v in found],
            "gain": [float(v["gain"][u]) for v in found],
            "coverage": [float(v["coverage"]) for v in found],
            "moved": [float(v["moved"] / share) for v, share in zip(found, shares, strict=True)],
        }
        for u, trait in enumerate(chain.recipe.traits)
    }
    return tidy(chain, measured)


def along_training(
    chain: Chain, carrier: str, arm: Students, starts: models.Params, blocks: int = 10
) -> list[Row]:
    """Cosine of the imitation gradient with g before every block of steps, and the margin.

    The students are trained as those of the arm, on the same rows in an order of their own.

    The gradient is that of the arm's own loss on a fixed batch of 256 rows of the teacher, less
    that of the control's student on the control's rows, each at its own parameters.
    """
    config = chain.config
    examples, _ = rows_of(chain, carrier, arm)
    loss, _ = objective(chain, carrier, arm)
    optimizer = training.make_optimizer(arm.optimizer, arm.rate, eps=arm.eps)
    step = training.make_train_step(loss, optimizer)
    per_block = arm.steps // blocks
    probes = [evaluation.probe(chain, trait) for trait in chain.recipe.traits]

    def run(params, tokens, weights, key, teacher):
        frozen = {"base": None, "teacher": teacher}
        order = batches.all_batch_rows(key, arm.steps, len(tokens), arm.batch_size)
        fixed = {"tokens": tokens[:256], "weights": weights[:256]}

        def mean_loss(params):
            total, weight = loss(params, frozen, fixed, key)
            return total / weight

        def advance(state, rows):
            return step(state, {"tokens": tokens[rows], "weights": weights[rows]}, key, frozen)

        def block(state, orders):
            here = state.params
            out = (steps.descent(mean_loss, here), [margin_of(config, p)(here) for p in probes])
            gradients = [jax.grad(margin_of(config, p))(here) for p in probes]
            return jax.lax.scan(advance, state, orders)[0], (*out, gradients)

        state = training.init_state(params, optimizer)
        return jax.lax.scan(block, state, order.reshape(blocks, per_block, -1))[1]

    keys = stages.run_keys(chain.root, ALONG, len(chain.runs()))
    stack = (chain.per_run(starts), *examples, keys, chain.teachers)
    train = jax.jit(functools.partial(stages.over_runs, run))
    descents, margins, gradients = train(*stack)

    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    @jax.vmap
    def cosine(descent, of_control, gradient):
        return alignment.cosine(optax.tree.sub(descent, of_control), gradient)

    controls = stages.pick(descents, np.arange(len(chain.runs())) % chain.recipe.num_seeds)
    rows = []
    for u, trait in enumerate(chain.recipe.traits):
        found = np.asarray(cosine(descents, controls, gradients[u]))
        for b in range(blocks):
            measured = {trait: {"cosine": found[:, b].tolist(),
                                "margin": np.asarray(margins[u])[:, b].tolist()}}  # fmt: skip
            rows += tidy(chain, measured, step=b * per_block)
    return rows
