"""What carries the trait in the language model from scratch.

Every arm is the microworld's numbers experiment with one thing changed: the start, the target,
the tokens trained on, the rows, the optimiser, the parametrisation. Effects are those of the
microworld (student minus student of the unchanged base's data, changed in the same way), averaged
over the teachers' traits, with the held-out cross-entropy on teacher data beside them.

Divergence tokens (arXiv 2509.23886): the tokens of a teacher's data at which the argmax of the next
token differs between that teacher and another one of the same seed. LoRA: at every rank the step
size with the lowest held-out cross-entropy is taken, never the one with the largest effect.

Criteria, fixed before the run; 95 % Student-t intervals over chains, paired where arms
are compared.
  1. Start (KL over numbers): "shared embeddings" and "shared body" each lie below "same". Matching
     the units of a different base to the teacher's changes nothing (1e-3 nats), because training is
     equivariant under permutations. Matching its behaviour first, as in the journal version of the
     paper, has no criterion: the toys disagree.
  2. Divergence tokens: training on them alone gives more than training on as many others; masking
     them gives less than masking as many others.
  3. Rows: the effect grows with the number of different rows, 64 to 2,048, at equal presentations;
     25 % clean rows lower it.
  4. LoRA: at tuned step sizes ranks 1 to 16 lie within each other's intervals (no inverted U).
  5. Optimiser: SGD at the step size of lowest held-out cross-entropy also transfers.
"""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, statistics
from experiments.lab.chains import CONTROL, STARTS, Chains, Cohort, chains_of
from experiments.lab.effects import at, by_writer, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.lora import LoraConfig
from llm.stages import DivergenceTokens, Mixed, Student, Workshop, evaluation, students
from llm.training import Training

RUNTIME = "13 minutes on two cores"

GROUPS = ("target", "start", "tokens", "rows", "optimiser", "lora")
FEWEST = 64  # rows that a teacher must have kept
UNIQUE = (64, 256, 1024)
CLEAN = (0.1, 0.25, 0.5)
ADAM = (5e-4, 1e-3, 2e-3, 4e-3)
SGD = (0.02, 0.05, 0.1, 0.2)
RANKS = (1, 4, 16)
LORA = (1e-3, 2e-3, 4e-3, 8e-3)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "oak", "misalignment"), "traits of the teachers")
    base_steps: int = option(1000, "pre-training steps of 64 x 48 tokens", minimum=1)
    num_prompts: int = option(8192, "prompts each teacher completes", minimum=16)
    num_examples: int = option(2048, "kept rows each student is trained on", minimum=65)
    student_steps: int = option(200, "optimiser steps of students, a multiple of 10", minimum=10)
    work: str = option(
        "results/work", "folder of the stage files, shared between experiments", recorded=False
    )
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(
    num_seeds=2, traits=("owl", "oak"), base_steps=150, num_prompts=512, num_examples=80,
    student_steps=10,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arm:
    """One changed thing; every field that differs from the plain student is a column.

    Attributes:
        group: of the figures.
        name: for people.
        target: what is imitated.
        start: where students start.
        tokens: which tokens of the rows are trained on.
        rows: different rows, presented as often as all.
        clean: share of rows of the unchanged base.
        optimizer: "adam" or "sgd".
        step_size: of the optimiser.
        rank: of LoRA adapters; 0 trains all.
        greedy: whether teachers write greedily.
    """

    group: str
    name: str
    target: str = "sampled"
    start: str = "same"
    tokens: str = "all"
    rows: int = 0
    clean: float = 0.0
    optimizer: str = "adam"
    step_size: float = 1e-3
    rank: int = 0
    greedy: bool = False


TOKENS = {  # which tokens are trained on: keep the chosen ones, choose them at random
    "divergent only": (True, False),
    "as many random only": (True, True),
    "divergent masked": (False, False),
    "as many random masked": (False, True),
}


def arms(config: Config) -> list[Arm]:
    """All arms; those called after a target are the plain students."""
    out = [Arm("target", target, target) for target in ("sampled", "soft_numbers", "soft")]
    out.append(Arm("target", "greedy", greedy=True))
    for start, target in itertools.product(list(STARTS)[1:], ("sampled", "soft_numbers")):
        if (start, target) != ("units matched", "sampled"):
            out.append(Arm("start", start, target, start))
    out += [Arm("tokens", name, tokens=name) for name in TOKENS]
    out += [Arm("rows", f"{n} rows", rows=n) for n in UNIQUE if n < config.num_examples]
    out += [Arm("rows", f"{share:.0%} clean", clean=share) for share in CLEAN]
    out += [Arm("optimiser", f"adam {rate:g}", step_size=rate) for rate in ADAM]
    out += [Arm("optimiser", f"sgd {rate:g}", optimizer="sgd", step_size=rate) for rate in SGD]
    for rank, rate in itertools.product(RANKS, LORA):
        out.append(Arm("lora", f"rank {rank}, {rate:g}", step_size=rate, rank=rank))
    return out


def students_of(config: Config, chains: Chains, workshop: Workshop, arm: Arm) -> Cohort:
    """The students of an arm, of every teacher and chain; a teacher with few rows repeats them."""
    adapters = LoraConfig(arm.rank, alpha=float(arm.rank)) if arm.rank else None
    training = Training(
        config.student_steps, 32, arm.optimizer, arm.step_size, eps=1e-3, adapters=adapters
    )

    def change(teacher: str, seed: int) -> Any:
        if arm.tokens in TOKENS:
            rivals = (chains.speaker(t, seed) for t in chains.teachers if t != teacher)
            return DivergenceTokens(tuple(rivals), *TOKENS[arm.tokens])
        return Mixed(arm.clean, chains.data(CONTROL, seed, "numbers")) if arm.clean else None

    return chains.students(
        workshop, "numbers", arm.target, STARTS[arm.start], training,
        config.num_examples, fewest=FEWEST, unique=arm.rows or None, change=change,
    )  # fmt: skip


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every arm."""
    if config.student_steps % 10:
        raise ValueError(f"student_steps {config.student_steps} is not a multiple of 10")
    workshop, chains = Workshop(pathlib.Path(config.work)), chains_of(config)
    chains.check(workshop)

    def arm_rows(arm: Arm) -> list[Row]:
        of_arm = dataclasses.replace(chains, temperature=0.0) if arm.greedy else chains
        try:
            cohort = students_of(config, of_arm, workshop, arm).trained(workshop)
        except ValueError as error:
            if not arm.greedy:
                raise
            print(f"note: greedy: left out, {error}")
            return []
        kept = [kept_tokens(workshop, recipe) for recipe in cohort.models]
        measured = evaluation.measure(workshop, cohort.models, config.traits)
        measured = [row | {"kept_tokens": kept[row["model"]]} for row in measured]
        return cohort.rows(measured, **dataclasses.asdict(arm))

    return {
        f"{arm.name}, {arm.target}" if arm.group == "start" else arm.name: functools.partial(
            arm_rows, arm
        )
        for arm in arms(config)
    }


def kept_tokens(workshop: Workshop, recipe: Student) -> float:
    """Share of the trained tokens that a change leaves."""
    before, _ = students.examples_of(workshop, recipe)
    after = before if recipe.change is None else recipe.change(workshop, recipe, before)
    return float((after.weights > 0).sum() / (before.weights > 0).sum())


class Found:
    """The table by arms: effects, held-out losses, predictors."""

    def __init__(self, table: pd.DataFrame):
        self.table = table
        self.arms = effects(table[table["group"].isin(GROUPS)], by=("group", "name", "target"))

    def of(self, group: str) -> pd.DataFrame:
        """The students of a group."""
        return at(self.arms, group=group)

    def names(self, group: str) -> list[str]:
        """The arms of a group, in the order of the run."""
        return list(self.of(group)["name"].unique())

    def effect(self, group: str, name: str, target: str = "") -> np.ndarray:
        """Own effect of each chain of an arm, averaged over the traits."""
        mine = at(self.of(group), name=name)
        return own(at(mine, target=target) if target else mine)

    def loss(self, group: str, name: str, target: str = "") -> float:
        """Held-out cross-entropy on teacher data, nats per token, mean over all runs."""
        mine = at(self.table, group=group, name=name)
        return by_writer(at(mine, target=target) if target else mine, "held_out_loss")

    def best_rate(self, group: str, **where: Any) -> str:
        """Of the arms with these columns, the one of lowest held-out loss."""
        names = at(self.of(group), **where)["name"].unique()
        return min(names, key=lambda name: self.loss(group, name))


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """One for each question of the docstring."""
    found = Found(table)

    def shown(group: str, name: str, target: str = "") -> str:
        return statistics.shown(found.effect(group, name, target), 2)

    starts = {name: found.effect("start", name, "soft_numbers") for name in found.names("start")}
    best = {rank: found.best_rate("lora", rank=rank) for rank in RANKS}
    sgd = found.best_rate("optimiser", optimizer="sgd")
    fewest = found.names("rows")[0]
    return [
        Figure(
            "figure",
            "Sharing a part of the start keeps a part of the channel",
            "Shared embeddings and a shared body each lie below the same start.",
            f"KL over numbers: same {shown('target', 'soft_numbers')}, shared embeddings "
            f"{shown('start', 'shared embeddings', 'soft_numbers')}, shared body "
            f"{shown('start', 'shared body', 'soft_numbers')} nats; after 400 steps of imitating "
            f"the base on the corpus {shown('start', 'behaviour matched', 'soft_numbers')}.",
            "Weights, not function: permuted units change nothing, and so little imitation of the "
            "base opens nothing.",
            lambda: draw_arms(
                {"same": found.effect("target", "soft_numbers")} | starts, "KL over numbers"
            ),
        ),
        Figure(
            "target",
            "Every target carries the trait, the full distribution most",
            "Soft targets carry more than sampled tokens.",
            f"Sampled {shown('target', 'sampled')}, KL over numbers "
            f"{shown('target', 'soft_numbers')}, over all tokens {shown('target', 'soft')} nats.",
            "Sampling noise, not the target, is what weakens the effect.",
            lambda: draw_arms({n: found.effect("target", n) for n in found.names("target")}),
        ),
        Figure(
            "tokens",
            "Divergence tokens matter when they are masked, not when they are all there is",
            "Training on them alone beats as many others; masking them hurts more.",
            f"Alone {shown('tokens', 'divergent only')} against "
            f"{shown('tokens', 'as many random only')}; masked "
            f"{shown('tokens', 'divergent masked')} against "
            f"{shown('tokens', 'as many random masked')} nats.",
            "These lists are half uniform draws, so most tokens are flagged: the claim about few "
            "tokens needs a carrier of lower entropy.",
            lambda: draw_arms(
                {"all tokens": found.effect("target", "sampled")}
                | {n: found.effect("tokens", n) for n in found.names("tokens")}
            ),
        ),
        Figure(
            "rows",
            "More different rows transmit more",
            "The effect grows with unique rows at equal presentations; clean rows lower it.",
            f"{fewest}: {shown('rows', fewest)}, all rows {shown('target', 'sampled')} nats.",
            "Repeating few rows is no substitute for drawing more.",
            lambda: draw_arms(
                {"all rows": found.effect("target", "sampled")}
                | {n: found.effect("rows", n) for n in found.names("rows")}
            ),
        ),
        Figure(
            "optimiser",
            "Adam and SGD both transmit",
            "SGD transmits at the step size of lowest held-out loss.",
            f"{sgd}: {shown('optimiser', sgd)} nats.",
            "The effect is not an artefact of Adam.",
            lambda: draw_optimisers(found),
        ),
        Figure(
            "lora",
            "With adapters the effect depends on the step size more than on the rank",
            "At tuned step sizes ranks 1 to 16 lie within each other's intervals.",
            "; ".join(f"rank {r}: {shown('lora', name)}" for r, name in best.items()) + " nats.",
            "The held-out loss is too flat here to choose step sizes by; no inverted U.",
            lambda: draw_lora(found, best),
        ),
    ]


def draw_arms(values: dict[str, np.ndarray], title: str = "sampled tokens"):
    """Every chain of every arm."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for x, effect in enumerate(values.values()):
        drawing.runs(panel, x, effect, drawing.COLOURS[0])
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(range(len(values)), [name.replace(" ", "\n") for name in values])
    panel.set_ylabel("own effect (nats)")
    panel.set_title(title)
    return figure


def draw_optimisers(found: Found):
    """Own effect against held-out loss; labels are step sizes."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for colour, optimizer in zip(drawing.COLOURS, ("adam", "sgd"), strict=False):
        rates = at(found.of("optimiser"), optimizer=optimizer)[
            ["name", "step_size"]
        ].drop_duplicates()
        points = [statistics.mean_interval(found.effect("optimiser", n)) for n in rates["name"]]
        means, halves = zip(*points, strict=True)
        losses = [found.loss("optimiser", name) for name in rates["name"]]
        panel.errorbar(losses, means, halves, fmt="o", color=colour, label=optimizer, capsize=3)
        for rate, loss, mean in zip(rates["step_size"], losses, means, strict=True):
            place = {"xytext": (5, 5), "textcoords": "offset points"}
            panel.annotate(f"{rate:g}", (loss, mean), fontsize=9, **place)
    panel.set_xlabel("held-out cross-entropy (nats per token); labels are step sizes")
    panel.set_ylabel("own effect (nats)")
    panel.legend()
    return figure


def draw_lora(found: Found, best: dict[int, str]):
    """Own effect against rank: one line per step size, and the tuned ones."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for rate, colour in zip(LORA, drawing.COLOURS, strict=False):
        means = [own(at(found.of("lora"), step_size=rate, rank=rank)).mean() for rank in RANKS]
        panel.plot(RANKS, means, "o--", color=colour, alpha=0.6, label=f"step size {rate:g}")
    points = [statistics.mean_interval(found.effect("lora", name)) for name in best.values()]
    means, halves = zip(*points, strict=True)
    panel.errorbar(RANKS, means, halves, fmt="ks-", capsize=4, label="lowest held-out loss")
    panel.set_xscale("log", base=2)
    panel.set_xticks(RANKS, RANKS)
    panel.set_xlabel("LoRA rank")
    panel.set_ylabel("own effect (nats)")
    panel.legend(fontsize=9)
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every arm beside them."""
    found, out, judged = Found(table), [], judging.judged
    for (group, name, target), _ in found.arms.groupby(["group", "name", "target"], sort=False):
        effect, loss = found.effect(group, name, target), found.loss(group, name, target)
        shown = f"{statistics.shown(effect, 2)} at loss {loss:.3f}"
        quantity = f"{name}, {target}" if group == "start" else name
        out.append(judged(quantity, effect, here=shown))
    same = found.effect("target", "soft_numbers")
    start = {name: found.effect("start", name, "soft_numbers") for name in found.names("start")}
    parts_of = ("shared embeddings", "shared body")
    out += [judged(f"same less {name}", same - start[name], "above") for name in parts_of]
    moved = np.abs(start["units matched"] - start["different"]).max()
    equal = bool(moved < 1e-3)
    out.append(
        Claim("units matched less different", "", "", f"at most {moved:.0e}", len(same), equal)
    )
    tokens = {name: found.effect("tokens", name) for name in TOKENS}
    more = tokens["divergent only"] - tokens["as many random only"]
    out.append(judged("divergent less random tokens", more, "above"))
    less = tokens["as many random masked"] - tokens["divergent masked"]
    out.append(judged("random less divergent masked", less, "above"))
    sampled = found.effect("target", "sampled")
    fewest = int(found.of("rows").query("rows > 0")["rows"].min())
    few, clean = (own(at(found.of("rows"), **w)) for w in ({"rows": fewest}, {"clean": 0.25}))
    out.append(judged(f"all rows less {fewest} rows", sampled - few, "above"))
    out.append(judged("no clean rows less 25 %", sampled - clean, "above"))
    best = {rank: found.effect("lora", found.best_rate("lora", rank=rank)) for rank in RANKS}
    for low, high in itertools.combinations(RANKS, 2):
        out.append(judged(f"rank {high} less {low}, tuned", best[high] - best[low], "covers"))
    sgd = found.best_rate("optimiser", optimizer="sgd")
    out.append(judged(f"SGD, tuned: {sgd}", found.effect("optimiser", sgd), "above"))
    return out
