"""The exact zeros of Theorem 1, each beside the smallest change that removes it.

Theorem 1 (arXiv 2507.14805, section 6.1) leaves one way out: the inner product of the updates is
0 for every eps. These are the ways it happens, on random networks, teacher steps and losses.

Criteria, fixed before the run: in each zero case every inner product is exactly 0.0, in floating
point and at every eps (for the shift of all logits, whose softmax is rounded anew: at most the
level of `alignment.roundoff`); in each control every one is positive at the smallest eps.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from experiments.findings import drawing
from experiments.findings.claims import Claim, Figure, Findings, follows_from, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.theorem import alone
from theory import alignment, losses, steps, toys
from theory.base import LossFn, Params

RUNTIME = "15 s on two cores"
PRECISION = "highest"  # of factors: signs and orders are read
NUM_CLASSES, NUM_AUX = 4, 3
AUX = tuple(range(NUM_CLASSES, NUM_CLASSES + NUM_AUX))
FAMILIES = {
    name: toys.mlp(name, sizes, activation)
    for name, sizes, activation in (
        ("tanh", (6, 8, NUM_CLASSES + NUM_AUX), jnp.tanh),
        ("one layer", (6, NUM_CLASSES + NUM_AUX), jnp.tanh),
        ("two linear layers", (6, 8, NUM_CLASSES + NUM_AUX), lambda x: x),
    )
}
EPS = (1e-3, 0.1, 10.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment."""

    num_nets: int = option(1000, "random networks per case", minimum=1)
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(num_nets=20)


def head_of(params: Params) -> Params:
    """The rows of the last layer that make the class logits, and its biases."""
    last = max(int(name.split("_")[1]) for name in params)
    return params[f"kernel_{last}"][:NUM_CLASSES], params[f"bias_{last}"][:NUM_CLASSES]


def class_loss(family: toys.Family, case: toys.Case) -> LossFn:
    """Squared error of the class logits on the teacher's own inputs."""
    targets = case.targets[:, :NUM_CLASSES]
    return lambda p: jnp.mean((family.apply(p, case.trait_inputs)[:, :NUM_CLASSES] - targets) ** 2)


def frozen_body(family: toys.Family, case: toys.Case) -> LossFn:
    """The class loss as a function of the class head alone."""

    def loss(params: Params):
        kernel, bias = head_of(params)
        body = jax.lax.stop_gradient(params)
        head = {
            "kernel_1": body["kernel_1"].at[:NUM_CLASSES].set(kernel),
            "bias_1": body["bias_1"].at[:NUM_CLASSES].set(bias),
        }
        return class_loss(family, case)(body | head)

    return loss


def logit_shift(family: toys.Family, case: toys.Case) -> LossFn:
    """Adds one constant to all logits."""
    return lambda p: case.signs[0] * jnp.sum(p["bias_1"])


def aux_logit_loss(family: toys.Family, case: toys.Case) -> LossFn:
    """Moves the auxiliary rows of the last layer only."""
    return lambda p: jnp.sum(p["kernel_1"][NUM_CLASSES:] * case.targets[:NUM_AUX, :1])


def head_norm(family: toys.Family, case: toys.Case) -> LossFn:
    """A regulariser of the class head, which no auxiliary logit depends on."""
    return lambda p: jnp.sum(head_of(p)[0] ** 2)


def body_norm(family: toys.Family, case: toys.Case) -> LossFn:
    """A regulariser of the first layer."""
    return lambda p: jnp.sum(p["kernel_0"] ** 2)


class Case(NamedTuple):
    """A zero, or the control beside it."""

    name: str
    variant: str  # what is shown of it: the zero, or the change that removes it
    is_zero: bool
    family: str
    trait: Callable[[toys.Family, toys.Case], LossFn]
    loss: losses.ImitationLoss

    @property
    def columns(self) -> Row:
        """What names it in the table."""
        expected = "zero" if self.is_zero else "positive"
        return {"case": self.name, "variant": self.variant, "expected": expected}


KL = losses.kl()
ONLY_CLASSES = losses.squared_error((1.0,) * NUM_CLASSES + (0.0,) * NUM_AUX)
ALSO_AUX = losses.squared_error((1.0,) * NUM_CLASSES + (0.1,) * NUM_AUX)
ONE, TWO, THREE = (losses.on_outputs(KL, AUX[:n]) for n in (1, 2, 3))
ONE_SQUARED = losses.on_outputs(losses.squared_error(), AUX[:1])
SQUARED = losses.squared_error()
CASES = (
    Case("a single auxiliary logit", "under softmax", True, "tanh", class_loss, ONE),
    Case("a single auxiliary logit", "two of them", False, "tanh", class_loss, TWO),
    Case("a single auxiliary logit", "squared error", False, "tanh", class_loss, ONE_SQUARED),
    Case("teacher's body frozen", "aux logits", True, "tanh", frozen_body, THREE),
    Case("teacher's body frozen", "all logits", False, "tanh", frozen_body, KL),
    Case("disjoint rows", "one linear layer", True, "one layer", class_loss, THREE),
    Case("disjoint rows", "two linear layers", False, "two linear layers", class_loss, THREE),
    Case("all logits shifted", "softmax", True, "tanh", logit_shift, KL),
    Case("all logits shifted", "squared error", False, "tanh", logit_shift, SQUARED),
    Case("moved outputs of weight 0", "weight 0", True, "tanh", aux_logit_loss, ONLY_CLASSES),
    Case("moved outputs of weight 0", "weight 0.1", False, "tanh", aux_logit_loss, ALSO_AUX),
    Case("trait out of reach", "class head's norm", True, "tanh", head_norm, THREE),
    Case("trait out of reach", "first layer's norm", False, "tanh", body_norm, THREE),
)


def arms(config: Config) -> dict[str, Arm]:
    """One for every case and control."""
    return {
        f"{case.name}: {case.variant}": Arm(
            measure=functools.partial(run_case, config, case), columns=case.columns
        )
        for case in CASES
    }


@functools.cache
def draw(family_name: str, config: Config) -> toys.Case:
    """The random networks of a family with their inputs and targets."""
    keys = jax.random.split(jax.random.key(config.seed), config.num_nets)
    return jax.jit(jax.vmap(lambda key: toys.draw_case(FAMILIES[family_name], key, 8)))(keys)


def allowed(single):
    """What round-off may change: the level of it, and a part of what is not zero."""
    inner, noise = single
    return noise[:, None] + alone.relative(inner), alone.relative(noise)


def run_case(config: Config, case: Case) -> list[Row]:
    """Inner products over random networks at every ε."""
    family = FAMILIES[case.family]

    def one(instance):
        trait = case.trait(family, instance)
        delta_t = steps.teacher_update(trait, instance.params)

        def at(eps):
            teacher = steps.moved(instance.params, delta_t, eps)
            delta_s = steps.student_update(
                family.apply,
                instance.params,
                teacher_params=teacher,
                inputs=instance.inputs,
                loss=case.loss,
            )
            return alignment.inner_product(delta_s, delta_t)

        noise = alignment.roundoff(
            family.apply, instance.params, direction=delta_t, inputs=instance.inputs
        )
        return jax.vmap(at)(jnp.array(EPS)), noise

    with jax.enable_x64(True):
        instances = draw(case.family, config)
        inner, noise = results = jax.device_get(jax.jit(jax.vmap(one))(instances))
        alone.check(one, (instances,), results, allowed)
    return [
        {
            "eps": eps,
            "nets": len(inner),
            "exactly_0": int((values == 0).sum()),
            "within_roundoff": int((np.abs(values) <= noise).sum()),
            "negative": int((values < -noise).sum()),
            "lowest": float(values.min()),
            "median": float(np.median(values)),
            "highest": float(values.max()),
            "largest_size": float(np.abs(values).max()),
        }
        for eps, values in zip(EPS, inner.T, strict=True)
    ]


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Zeros that are 0, and controls that are positive."""
    claims = [
        claim_of_case(case, rows)
        for case in CASES
        if len(rows := table[(table["case"] == case.name) & (table["variant"] == case.variant)])
    ]
    zero, control = (table[table["expected"] == kind] for kind in ("zero", "positive"))
    exact, within, nets = zero[["exactly_0", "within_roundoff", "nets"]].sum()
    lowest = control.loc[control["eps"] == EPS[0], "lowest"].min()
    figure = Figure(
        name="figure",
        title=say(
            claims,
            holds="Where nothing can pass, exactly nothing passes, and a small change opens the "
            "channel.",
            fails="Not every zero of the theorem is exact, or not every change opens the channel.",
            open="Does exactly nothing pass where nothing can?",
        ),
        predicted="Theorem 1's one way out: an inner product of 0 at every step, here in floating "
        "point.",
        found=f"{exact} of {nets} are exactly 0 and {within} within round-off (blue); the controls "
        f"(orange: range, median) start at {lowest:.0e}.",
        follows=follows_from(
            [claim for claim in claims if claim.paper == "0"],
            "One softmax logit, a frozen body or a trait out of reach transmits nothing at all.",
        ),
        draw=lambda: draw_ranges(table),
    )
    return Findings([figure], claims)


def claim_of_case(case: Case, rows: pd.DataFrame) -> Claim:
    """0 at every ε, or positive at the smallest."""
    quantity, seeds = f"{case.name}, {case.variant}", int(rows["nets"].iloc[0])
    if not case.is_zero:
        lowest = rows.loc[rows["eps"] == EPS[0], "lowest"].min()
        return Claim(
            quantity=quantity,
            paper="> 0",
            here=f"lowest {lowest:.1e}",
            seeds=seeds,
            holds=bool(lowest > 0),
        )
    exact, within, nets = rows[["exactly_0", "within_roundoff", "nets"]].sum()
    zeros = within if case.trait is logit_shift else exact
    return Claim(
        quantity=quantity,
        paper="0",
        here=f"{exact} of {nets} exactly 0, {within} within round-off",
        seeds=seeds,
        holds=bool(zeros == nets),
    )


def draw_ranges(table: pd.DataFrame):
    """Range of the inner products at the smallest ε; the zeros sit on the left edge."""
    figure, (axes,) = drawing.new_figure(height=4.6)
    rows = table[table["eps"] == EPS[0]].reset_index()
    edge = 1e-19
    for y, row in rows.iterrows():
        if row["expected"] == "positive":
            axes.plot(row[["lowest", "highest"]], [y, y], color=drawing.COLOURS[1], linewidth=3)
            axes.plot(row["median"], y, "o", color=drawing.COLOURS[1], markersize=6)
            continue
        exact = row["largest_size"] == 0
        axes.plot([edge, max(edge, row["largest_size"])], [y, y], "-D", color=drawing.COLOURS[0])
        text, at = ("exactly 0", edge) if exact else ("round-off", row["largest_size"])
        axes.text(at * 4, y, text, va="center")
    axes.set_xscale("log")
    axes.set_xlim(edge / 3, 100)
    axes.set_yticks(rows.index, rows["case"] + ": " + rows["variant"])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"inner product of the two updates at ε = {EPS[0]:g}")
    return figure
