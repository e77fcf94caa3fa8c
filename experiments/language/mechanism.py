"""What in the data carries the trait: its target, its divergence tokens, its purity.

Students of the same start learn a teacher's lists with one thing changed: what is imitated, which
tokens are trained on, how many rows are the unchanged base's. Lists are numbers 0-127, where nearly
every token tells teachers apart, and counting (runs of six consecutive digits), where few do.

Divergence tokens (arXiv 2509.23886): the tokens of a teacher's data at which the argmax of the next
token differs between that teacher and another one of the same chain. They are trained on alone or
masked, and beside each as many tokens of the same row, drawn at random from all of them.

Criteria, fixed before the run; effects and intervals as in the microworld, paired over chains.
  1. Tokens, on either carrier: divergence tokens alone give more than as many at random;
     masking them gives less than masking as many at random. Published: alone they carry the
     trait, and masking them mostly removes it. Predicted: both on counting, on numbers only
     the second.
  2. Targets: KL over numbers and KL over all tokens each give more than sampled tokens.
  3. Purity: a quarter of clean rows lowers the effect (published: it nearly removes it).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, question, statistics
from experiments.lab.chains import CONTROL, TARGETS, TRAIT, Cohort
from experiments.lab.effects import at, by_writer, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import DivergenceTokens, Mixed, Student, students
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


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every carrier and arm; targets and clean rows on the first carrier only."""
    bench = question.bench(config, max_new_tokens=12)  # room for six digits

    def arm(carrier: str, name: str, target: str, change: Callable | None) -> list[Row]:
        changes = {} if change is None else {"change": change}
        cohort = bench.students(carrier, target, **changes)
        return bench.measured(with_left(bench, cohort), carrier=carrier, arm=name)

    def masked(name: str) -> Callable[[str, int], Change]:
        def change(teacher: str, seed: int) -> Change:
            rivals = bench.chains.rivals(bench.chains.speaker(teacher, seed), seed)
            return DivergenceTokens(rivals, *TOKENS[name])

        return change

    first = config.carriers[0]

    def diluted(share: float) -> Callable[[str, int], Change]:
        return lambda _, seed: Mixed(share, bench.chains.data(CONTROL, seed, first))

    arms = [(carrier, PLAIN, "sampled", None) for carrier in config.carriers]
    arms += [(c, name, "sampled", masked(name)) for c in config.carriers for name in TOKENS]
    arms += [(first, TARGETS[target], target, None) for target in SOFT]
    arms += [(first, clean(share), "sampled", diluted(share)) for share in config.clean]
    return {f"{one[0]}, {one[1]}": functools.partial(arm, *one) for one in arms}


def clean(share: float) -> str:
    """The arm with that share of clean rows."""
    return f"{100 * share:g} % clean"


def with_left(bench: question.Bench, cohort: Cohort) -> Cohort:
    """With the share of the trained tokens that a change leaves."""

    def left(student: Student) -> float:
        if student.change is None:
            return 1.0
        before, _ = students.examples_of(bench.workshop, student)
        after = student.change(bench.workshop, student, before)
        return float((after.weights > 0).sum() / (before.weights > 0).sum())

    pairs = zip(cohort.labels, cohort.models, strict=True)
    return cohort._replace(labels=[row | {"left": left(model)} for row, model in pairs])


class Found:
    """Effects and shares of trained tokens by carrier and arm."""

    def __init__(self, table: pd.DataFrame):
        self.table, self.effects = table, effects(table, ["carrier", "arm"])
        named = self.effects[["carrier", "arm"]].drop_duplicates()
        self.arms = list(named.itertuples(index=False, name=None))

    def own(self, carrier: str, arm: str = PLAIN) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own(at(self.effects, carrier=carrier, arm=arm))

    def shown(self, carrier: str, arm: str = PLAIN) -> str:
        """The same as text."""
        return statistics.shown(self.own(carrier, arm), 2)

    def held_out(self, carrier: str, arm: str) -> np.ndarray:
        """Held-out loss of students of the trait's teachers by chain, nats a token."""
        rows = at(self.table, carrier=carrier, arm=arm, data=TRAIT)
        return rows.groupby("seed")["held_out_loss"].mean().to_numpy()

    def left(self, carrier: str, arm: str) -> float:
        """Share of the tokens trained on, every writer of data counted once."""
        return by_writer(at(self.table, carrier=carrier, arm=arm), "left")


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Tokens by carrier, and the other arms."""
    found, (first, *_) = Found(table), config.carriers
    each = "; ".join(
        f"{carrier} ({100 * found.left(carrier, 'divergent only'):.0f} % flagged): "
        + ", ".join(f"{arm} {found.shown(carrier, arm)}" for arm in (PLAIN, *TOKENS))
        for carrier in config.carriers
    )
    others = ", ".join(f"{arm} {found.shown(first, arm)}" for arm in others_of(config))
    return [
        Figure(
            name="figure",
            title=(
                "Where a trait sits among the tokens: those that tell teachers apart, and the rest"
            ),
            predicted="Alone they give more than as many at random; masked they cost more.",
            found=f"{each} nats.",
            follows="They matter more than others, but others alone still give a third or a half.",
            draw=lambda: draw_tokens(found, config),
        ),
        Figure(
            name="others",
            title="Soft targets carry more than sampled tokens, mixed rows less than pure ones",
            predicted=(
                "Both soft targets above sampled tokens; a quarter of clean rows lowers the effect."
            ),
            found=f"Sampled {found.shown(first)}, {others} nats.",
            follows="Sampling noise and other writers' rows both lower the effect.",
            draw=lambda: draw_others(found, config),
        ),
    ]


def others_of(config: Config) -> list[str]:
    """The arms on the first carrier that change no tokens."""
    return [*(TARGETS[target] for target in SOFT), *map(clean, config.clean)]


def draw_tokens(found: Found, config: Config):
    """Every chain by which tokens are trained on, a panel a carrier."""
    count = len(config.carriers)
    figure, panels = drawing.new_figure(1, count, width=max(5.0, 4.6 * count), height=4.0)
    for panel, carrier in zip(panels, config.carriers, strict=True):
        if panel is not panels[0]:
            panel.sharey(panels[0])
        for x, arm in enumerate((PLAIN, *TOKENS)):
            drawing.runs(
                panel, x, values=found.own(carrier, arm), colour=drawing.COLOURS[(x + 1) // 2]
            )
        labels = [arm.replace(" ", "\n") for arm in (PLAIN, *TOKENS)]
        panel.set_xticks(range(len(labels)), labels, fontsize=9)
        panel.axhline(0, color="black", linewidth=1)
        flagged = 100 * found.left(carrier, "divergent only")
        panel.set_title(f"{carrier}, {flagged:.0f} % divergent")
    panels[0].set_ylabel("own effect (nats)")
    return figure


def draw_others(found: Found, config: Config):
    """Every chain by target, and by the share of clean rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    arms = [PLAIN, *others_of(config)]
    for x, arm in enumerate(arms):
        drawing.runs(panel, x, values=found.own(config.carriers[0], arm), colour=drawing.COLOURS[0])
    panel.axhline(0, color="black", linewidth=1)
    labels = ["sampled tokens", *arms[1:]]
    panel.set_xticks(
        range(len(labels)),
        [label.replace("KL ", "KL\n").replace(" % ", " %\n") for label in labels],
    )
    panel.set_ylabel("own effect (nats)")
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every arm beside them."""
    found, judged, (first, *_) = Found(table), judging.judged, config.carriers
    out = []
    for carrier, arm in found.arms:
        share = f", {100 * found.left(carrier, arm):.0f} % of the tokens" if arm in TOKENS else ""
        here = found.shown(carrier, arm) + share
        out.append(judged(f"{carrier}, {arm}", found.own(carrier, arm), here=here))
    for carrier in config.carriers:
        own_of, loss = (functools.partial(f, carrier) for f in (found.own, found.held_out))
        alone = own_of("divergent only") - own_of("random only")
        out.append(judged(f"{carrier}: divergent less random only", alone, criterion="above"))
        masked = own_of("random masked") - own_of("divergent masked")
        out.append(judged(f"{carrier}: random less divergent masked", masked, criterion="above"))
        worse = loss("divergent masked") - loss("random masked")
        out.append(judged(f"{carrier}: held-out loss, divergent less random masked", worse))
    whole = found.own(first)
    for target in SOFT:
        more = found.own(first, TARGETS[target]) - whole
        out.append(judged(f"{TARGETS[target]} less sampled tokens", more, criterion="above"))
    if 0.25 in config.clean:
        out.append(
            judged(
                "no clean rows less 25 %", whole - found.own(first, clean(0.25)), criterion="above"
            )
        )
    return out
