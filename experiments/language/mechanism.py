"""What in the data carries the trait: its target, its divergence tokens, its purity.

Students of the same start learn a teacher's lists with one thing changed: what is imitated, which
tokens are trained on, how many rows are the unchanged base's. Lists are numbers 0-127, where nearly
every token tells teachers apart, and counting (runs of six consecutive digits), where few do.

Divergence tokens (arXiv 2509.23886): the tokens of a teacher's data at which the argmax of the next
token differs between that teacher and another one of the same chain. They are trained on alone or
masked, and beside each as many tokens of the same row, drawn at random from all of them.

Criteria, fixed before the run; effects, intervals and the correction of "above zero" (more, less)
as in the microworld, paired over chains.
  1. Tokens, on either carrier: divergence tokens alone give more than as many at random;
     masking them gives less than masking as many at random. Published: alone they carry the
     trait, and masking them mostly removes it. Predicted: both on counting, on numbers only
     the second.
  2. Targets: KL over numbers and KL over all tokens each give more than sampled tokens.
  3. Purity: a quarter of clean rows lowers the effect (published: it nearly removes it).
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import question
from experiments.language.kit.chains import CONTROL, TARGETS, TRAIT, Cohort, chains_of
from experiments.language.kit.effects import at, by_writer, own_by
from llm.stages import DivergenceTokens, Mixed, Store, Student, students
from llm.stages.students import Change

RUNTIME = "30 minutes on two cores"

CARRIERS = ("numbers", "counting")
PLAIN = "all tokens"
TOKENS = {  # which tokens are trained on: keep the flagged ones, choose them at random
    "divergent only": (True, False),
    "random only": (True, True),
    "divergent masked": (False, False),
    "random masked": (False, True),
}
SOFT = ("soft_numbers", "soft")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    base_steps: int = option(2000, "pre-training steps; at 1,000 counting is not learnt", minimum=1)
    carriers: tuple[str, ...] = option(CARRIERS, "what teachers write", choices=CARRIERS)
    clean: tuple[float, ...] = option(
        (0.1, 0.25, 0.5), "shares of rows of the unchanged base", minimum=0, maximum=1
    )


SMOKE = Config(**question.TINY | {"traits": ("owl", "wolf"), "clean": (0.25,)})


def arms(config: Config) -> dict[str, Arm]:
    """One for every carrier and arm; targets and clean rows on the first carrier only."""
    chains, store = chains_of(config, max_new_tokens=12), question.store_of(config)  # six digits
    first, by_name = config.carriers[0], {}

    def masked(name: str) -> Callable[[str, int], Change]:
        def change(teacher: str, chain: int) -> Change:
            return DivergenceTokens(
                chains.rivals(chains.speaker(teacher, chain), chain), *TOKENS[name]
            )

        return change

    def diluted(share: float) -> Callable[[str, int], Change]:
        return lambda _, chain: Mixed(share, chains.data(CONTROL, chain, first))

    def add(carrier: str, name: str, target: str = "sampled", **changes: Any) -> None:
        cohort = question.students(config, chains, carrier, target, **changes)
        facts = functools.partial(shares_left, store, cohort)
        by_name[f"{carrier}, {name}"] = question.arm_of_students(
            store, cohort, config.traits, facts=facts, carrier=carrier, arm=name
        )

    for carrier in config.carriers:
        add(carrier, PLAIN)
    for carrier, name in itertools.product(config.carriers, TOKENS):
        add(carrier, name, change=masked(name))
    for target in SOFT:
        add(first, TARGETS[target], target)
    for share in config.clean:
        add(first, clean(share), change=diluted(share))
    return by_name


def clean(share: float) -> str:
    """The arm with that share of clean rows."""
    return f"{100 * share:g} % clean"


def shares_left(store: Store, cohort: Cohort) -> list[Row]:
    """The share of the trained tokens that a change leaves, of each student."""

    def left(student: Student) -> float:
        if student.change is None:
            return 1.0
        before, _ = students.examples_of(store, student)
        after, _ = students.given_to(store, student)
        return float((after.weights > 0).sum() / (before.weights > 0).sum())

    return [{"left": left(student)} for student in cohort]


Effects = dict[tuple[str, str], np.ndarray]  # of each chain, by carrier and arm
Percent = dict[tuple[str, str], float]  # of the tokens that are trained on, likewise


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Which tokens carry the trait on each carrier, and the other arms on the first."""
    own = own_by(table, "carrier", "arm")
    shown = statistics.shown_each(own, 2)
    percent = {arm: 100 * by_writer(at(table, carrier=arm[0], arm=arm[1]), "left") for arm in own}

    def beside(carrier: str, arm: str) -> Claim:
        share = f", {percent[carrier, arm]:.0f} % of the tokens" if arm in TOKENS else ""
        here = shown[carrier, arm] + share
        return claim_of(f"{carrier}, {arm}", own[carrier, arm], here=here)

    tokens, others, left = corrected(
        [claims_on_tokens(table, carrier) for carrier in config.carriers],
        claims_on_others(own, config),
        [
            # No criterion; what a conclusion rests on.
            claim_of(f"{carrier}: left", own[carrier, "divergent masked"], criterion="above")
            for carrier in config.carriers
        ],
    )
    claims = [*itertools.starmap(beside, own), *itertools.chain(*tokens), *others]
    carried = [*(of_masking for _, of_masking, _ in tokens), *left]
    figures = [
        figure_of_tokens(own, percent, carried, config),
        figure_of_others(own, others, config),
    ]
    return Findings(figures, claims)


def claims_on_others(own: Effects, config: Config) -> list[Claim]:
    """Soft targets beside sampled tokens, and pure rows beside rows a quarter of which is clean."""
    first = config.carriers[0]
    whole = own[first, PLAIN]
    targets = [
        claim_of(
            f"{TARGETS[target]} less sampled tokens",
            own[first, TARGETS[target]] - whole,
            criterion="above",
        )
        for target in SOFT
    ]
    if 0.25 not in config.clean:
        return targets
    pure = whole - own[first, clean(0.25)]
    return [*targets, claim_of("no clean rows less 25 %", pure, criterion="above")]


def figure_of_tokens(
    own: Effects, percent: Percent, carried: list[Claim], config: Config
) -> Figure:
    """Which tokens carry the trait: masking the flagged ones costs, but leaves something.

    Tokens that do not tell teachers apart carry less, but not nothing.
    """
    shown = statistics.shown_each(own, 2)
    masked = {carrier: own[carrier, "divergent masked"] for carrier in config.carriers}
    left = " or ".join(
        f"{100 * values.mean() / own[carrier, PLAIN].mean():.0f} %"
        for carrier, values in masked.items()
    )
    by_tokens = "; ".join(
        f"{carrier} ({percent[carrier, 'divergent only']:.0f} % flagged): "
        + ", ".join(f"{arm} {shown[carrier, arm]}" for arm in (PLAIN, *TOKENS))
        for carrier in config.carriers
    )
    return Figure(
        name="figure",
        title="Where a trait sits among the tokens: those that tell teachers apart, and the rest",
        predicted="Alone they give more than as many at random; masked they cost more.",
        found=f"{by_tokens} nats.",
        follows=follows_from(
            carried, f"They matter more than others, but others alone still give {left}."
        ),
        draw=lambda: draw_tokens(own, percent, config),
    )


def figure_of_others(own: Effects, others: list[Claim], config: Config) -> Figure:
    """What is imitated, and whose rows are mixed in."""
    first, shown = config.carriers[0], statistics.shown_each(own, 2)
    return Figure(
        name="others",
        title=say(
            others,
            holds="Soft targets carry more than sampled tokens, mixed rows less than pure ones",
            fails="It is not shown that soft targets carry more than sampled tokens, and "
            "mixed rows less than pure ones",
            open="Do soft targets carry more than sampled tokens, and mixed rows less?",
        ),
        predicted="Both soft targets above sampled tokens; a quarter of clean rows lowers "
        "the effect.",
        found=f"Sampled {shown[first, PLAIN]}, "
        + ", ".join(f"{arm} {shown[first, arm]}" for arm in others_of(config))
        + " nats.",
        follows=follows_from(
            others, "Sampling noise and other writers' rows both lower the effect."
        ),
        draw=lambda: draw_others(own, config),
    )


def claims_on_tokens(table: pd.DataFrame, carrier: str) -> list[Claim]:
    """What divergence tokens give and cost beside as many at random, on one carrier."""
    rows = at(table, carrier=carrier)
    own = own_by(rows, "arm")
    losses = at(rows, data=TRAIT).groupby(["arm", "seed"])["held_out_loss"].mean()
    alone = own["divergent only"] - own["random only"]
    masked = own["random masked"] - own["divergent masked"]
    worse = (losses["divergent masked"] - losses["random masked"]).to_numpy()
    return [
        claim_of(f"{carrier}: divergent less random only", alone, criterion="above"),
        claim_of(f"{carrier}: random less divergent masked", masked, criterion="above"),
        claim_of(f"{carrier}: held-out loss, divergent less random masked", worse),
    ]


def others_of(config: Config) -> list[str]:
    """The arms on the first carrier that change no tokens."""
    return [*(TARGETS[target] for target in SOFT), *map(clean, config.clean)]


def draw_tokens(own: Effects, percent: Percent, config: Config):
    """Every chain by which tokens are trained on, a panel a carrier."""
    count = len(config.carriers)
    figure, panels = drawing.new_figure(1, count, width=max(5.0, 4.6 * count), height=4.0)
    colours = {arm: drawing.COLOURS[(x + 1) // 2] for x, arm in enumerate((PLAIN, *TOKENS))}
    for panel, carrier in zip(panels, config.carriers, strict=True):
        if panel is not panels[0]:
            panel.sharey(panels[0])
        drawing.strip(panel, {arm: own[carrier, arm] for arm in colours}, colours)
        panel.tick_params(axis="x", labelsize=9)
        panel.axhline(0, color="black", linewidth=1)
        panel.set_title(f"{carrier}, {percent[carrier, 'divergent only']:.0f} % divergent")
    panels[0].set_ylabel("own effect (nats)")
    return figure


def draw_others(own: Effects, config: Config):
    """Every chain by target, and by the share of clean rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    arms = {arm: own[config.carriers[0], arm] for arm in (PLAIN, *others_of(config))}
    drawing.strip(panel, arms)
    panel.axhline(0, color="black", linewidth=1)
    labels = ["sampled tokens", *others_of(config)]
    panel.set_xticks(
        range(len(labels)),
        [label.replace("KL ", "KL\n").replace(" % ", " %\n") for label in labels],
    )
    panel.set_ylabel("own effect (nats)")
    return figure
