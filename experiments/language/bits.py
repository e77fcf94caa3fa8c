"""How much text carries how much of a trait: unique rows, nats a token, alphabet, temperature.

Students of the same start learn the sampled tokens of lists that leave more or less to choose:
numbers 0-127 (half of the lists uniform draws), counting (runs of six consecutive digits, each
begun anywhere), and numbers of 1, 2 or 3 digits written digit by digit, equally many digits a
list. Teachers sample at temperature 1 or .5; students see 64 rows again and again, or more
different ones, at equal presentations.

Criteria, fixed before the run; effects and intervals as in the microworld, paired over chains.
  1. Low entropy: on counting 5 to 18 % of the tokens are divergence tokens (arXiv 2509.23886:
     another teacher of the chain has another argmax there), as published for language models.
     Predicted: well below the 85 % of mixed lists.
  2. Rows: for every carrier at temperature 1 all rows give more than 64.
  3. Alphabet: 1 digit gives more than 3 (published, arXiv 2609.12586: fewer digits transmit more).
     Predicted: no difference, for the lists hold equal information.
  4. Nats: over carriers, temperatures and rows, the rank correlation of the mean effect with the
     logarithm of distinct rows x tokens x nats a token is above .7: information is the currency.
     Nats a token are those that students of all rows reach on held-out ones.

A teacher that keeps fewer than 16 rows of a carrier, at some temperature, is left out of all its
arms; how many are is told. Counting has but ten prompts and about a hundred lists, so most of its
rows are repeats of others, and held-out ones are not new: rows are draws, and the distinct ones
among them are counted.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, question, statistics
from experiments.lab.chains import TRAIT, Cohort
from experiments.lab.effects import at, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Student, changes, completions, students

RUNTIME = "25 minutes on two cores"

LONGEST = 12  # tokens of a completion: room for six numbers digit by digit
CARRIERS = ("numbers", "counting", "digits1", "digits2", "digits3")
PUBLISHED = (0.05, 0.18)  # share of divergence tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    base_steps: int = option(2000, "pre-training steps; at 1,000 counting is not learnt", minimum=1)
    carriers: tuple[str, ...] = option(CARRIERS, "what teachers write", choices=CARRIERS)
    temperatures: tuple[float, ...] = option((1.0, 0.5), "of the teachers' sampling", minimum=0)
    rows: tuple[int, ...] = option(
        (64, 320, 1536), "different rows, presented as often as all", minimum=1
    )


SMOKE = Config(**question.TINY | {"carriers": ("numbers", "counting"), "rows": (16, 64)})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every carrier, temperature and number of rows."""
    bench = question.bench(config, max_new_tokens=LONGEST)

    def arm(carrier: str, temperature: float, rows: int) -> list[Row]:
        here = bench.of(temperature=temperature)
        cohort = recipes(bench, carrier, temperature, rows).trained(bench.workshop)
        labels = [row | told_of(here, student) for row, student in zip(*cohort, strict=True)]
        told = cohort._replace(labels=labels)
        return here.measured(told, carrier=carrier, temperature=temperature, rows=rows)

    return {
        f"{carrier} at {temperature:g}, {rows} rows": functools.partial(
            arm, carrier, temperature, rows
        )
        for carrier, temperature, rows in itertools.product(
            config.carriers, config.temperatures, config.rows
        )
    }


def recipes(bench: question.Bench, carrier: str, temperature: float, rows: int) -> Cohort:
    """The students of an arm, not yet trained; none of teachers that hardly write the carrier."""
    return bench.of(temperature=temperature).recipes(
        carrier, unique=rows, left_out=silent(bench, carrier)
    )


def silent(bench: question.Bench, carrier: str) -> list[tuple[str, int]]:
    """Teachers that keep too few rows of a carrier at some temperature."""
    found = []
    for temperature in bench.config.temperatures:
        chains = bench.of(temperature=temperature).chains
        chains.sampled(bench.workshop, carrier)
        kept = {
            run: completions.kept(bench.workshop, chains.data(*run, carrier))
            for run in itertools.product(chains.traits, range(chains.num_seeds))
        }
        found += [run for run, count in kept.items() if count < question.FEWEST]
    return found


def told_of(bench: question.Bench, student: Student) -> Row:
    """Trained tokens of a row, distinct rows, and the share of divergence tokens."""
    examples, _ = students.examples_of(bench.workshop, student)
    rivals = bench.chains.rivals(students.teacher_of(student), student.chain)
    flags = changes.divergent(bench.workshop, student, rivals, examples)
    trained = examples.weights > 0
    return {
        "tokens": trained.sum() / len(trained),
        "distinct": len(np.unique(examples.tokens[: student.unique], axis=0)),
        "flagged": flags.sum() / trained.sum(),
    }


class Found:
    """Effects by carrier, temperature and rows."""

    def __init__(self, table: pd.DataFrame):
        by = ["carrier", "temperature", "rows"]
        students = table[table["data"].notna()]
        self.effects = effects(students, by)
        self.most = int(students["rows"].max())
        self.fewest = int(students["rows"].min())
        own_data = at(students, data=TRAIT)
        columns = ["held_out_loss", "tokens", "distinct", "flagged"]
        self.told = own_data.groupby(by, sort=False)[columns].mean()
        # Students of few rows overfit, and their own loss would count that as information.
        of_all = self.told["held_out_loss"].xs(self.most, level="rows")
        a_token = of_all.reindex(self.told.index.droplevel("rows")).to_numpy()
        self.told["nats"] = self.told["distinct"] * self.told["tokens"] * a_token
        mine = self.effects[self.effects["own"]]
        self.means = mine.groupby(by, sort=False)["effect"].mean()
        self.flagged = at(own_data, temperature=1.0, rows=self.most)

    def own(self, carrier: str, temperature: float = 1.0, rows: int | None = None) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        where = {"carrier": carrier, "temperature": temperature, "rows": rows or self.most}
        return own(at(self.effects, **where))

    def less(self, one: str, other: str) -> np.ndarray:
        """Difference of two carriers at all rows by chain, over teachers that write both."""
        mine = self.effects[self.effects["own"]]
        effect = [
            at(mine, carrier=carrier, temperature=1.0, rows=self.most).set_index(
                ["teacher", "seed"]
            )["effect"]
            for carrier in (one, other)
        ]
        return (effect[0] - effect[1]).dropna().groupby("seed").mean().to_numpy()

    def writers(self, carrier: str) -> int:
        """Teachers, over all chains, that students of a carrier learn from."""
        return len(at(self.flagged, carrier=carrier)[["teacher", "seed"]].drop_duplicates())

    def share_flagged(self, carrier: str) -> np.ndarray:
        """Divergence tokens of each chain among the trained tokens, all rows."""
        mine = at(self.flagged, carrier=carrier)
        return mine.groupby("seed")["flagged"].mean().to_numpy()

    def correlation(self) -> tuple[float, ...]:
        """Rank correlation of mean effect and nats over all arms, with its interval."""
        nats = self.told["nats"].reindex(self.means.index)
        return statistics.spearman(np.log(nats.to_numpy()), self.means.to_numpy())


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Effect against information, and flags by carrier."""
    found = Found(table)
    rho, low, high = found.correlation()
    shown = "; ".join(
        f"{name} {statistics.shown(found.own(name), 2)} at "
        f"{found.told.loc[(name, 1.0, found.most), 'held_out_loss']:.2f} nats a token"
        for name in config.carriers
    )
    flags = ", ".join(
        f"{name} {100 * found.share_flagged(name).mean():.0f} %" for name in config.carriers
    )
    return [
        Figure(
            name="figure",
            title=(
                "How much of a trait is carried does not follow from how much a teacher has to "
                "choose"
            ),
            predicted=(
                "The effect grows with unique rows and with nats a token; digits do not matter."
            ),
            found=(
                f"All rows: {shown}. Rank correlation with nats {rho:.2f} [{low:.2f}, {high:.2f}]."
            ),
            follows="Counting nats does not tell how safe a data set is.",
            draw=lambda: draw_bits(found, config),
        ),
        Figure(
            name="flags",
            title="Text with one right way to go on has fewer divergence tokens, a quarter of all",
            predicted="5 to 18 % on counting, as published for language models.",
            found=f"Flagged: {flags}.",
            follows="Claims about few tokens can be tested here on counting at best.",
            draw=lambda: draw_flags(found, config),
        ),
    ]


def draw_bits(found: Found, config: Config):
    """Mean effect against total nats, one line a carrier and temperature."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    for colour, carrier in zip(drawing.COLOURS, config.carriers, strict=False):
        for style, temperature in zip(("o-", "s--"), config.temperatures, strict=False):
            nats = [found.told.loc[(carrier, temperature, r), "nats"] for r in config.rows]
            points = [
                statistics.mean_interval(found.own(carrier, temperature, r)) for r in config.rows
            ]
            means, halves = zip(*points, strict=True)
            label = f"{carrier}, T = {temperature:g}"
            panel.errorbar(nats, means, halves, fmt=style, color=colour, capsize=3, label=label)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xscale("log")
    panel.set_xlabel("nats in the distinct rows")
    panel.set_ylabel("own effect (nats)")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def draw_flags(found: Found, config: Config):
    """Share of divergence tokens of every chain, and the published range."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    panel.axhspan(*PUBLISHED, color="grey", alpha=0.2, linewidth=0, label="published")
    for x, carrier in enumerate(config.carriers):
        drawing.runs(panel, x, values=found.share_flagged(carrier), colour=drawing.COLOURS[0])
    panel.set_xticks(range(len(config.carriers)), config.carriers)
    panel.set_ylabel("share of divergence tokens")
    panel.set_ylim(0, 1)
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every arm beside them."""
    found, out, judged = Found(table), [], judging.judged
    for carrier, temperature, rows in found.means.index:
        effect = found.own(carrier, temperature, rows)
        about = found.told.loc[(carrier, temperature, rows)]
        here = f"{statistics.shown(effect, 2)} at {about['held_out_loss']:.2f} nats a token"
        out.append(judged(f"{carrier}, T {temperature:g}, {rows} rows", effect, here=here))
    for carrier in config.carriers:
        share = found.share_flagged(carrier)
        holds = bool(PUBLISHED[0] <= share.mean() <= PUBLISHED[1]) if len(share) >= 4 else None
        out.append(
            Claim(
                quantity=f"{carrier}: divergence tokens",
                paper="",
                replication="5 to 18 %",
                here=statistics.shown(share, 2),
                seeds=len(share),
                holds=holds if carrier == "counting" else None,
            )
        )
        teachers = f"{found.writers(carrier)} of {len(config.traits) * config.num_seeds}"
        out.append(
            Claim(quantity=f"{carrier}: teachers that write it", here=teachers, seeds=len(share))
        )
        more = found.own(carrier) - found.own(carrier, rows=found.fewest)
        out.append(judged(f"{carrier}: all rows less {found.fewest}", more, criterion="above"))
    if {"digits1", "digits3"} <= set(config.carriers):
        apart = found.less("digits1", "digits3")
        out.append(judged("1 digit less 3 digits", apart, criterion="above"))
    rho, low, high = found.correlation()
    holds = rho > 0.7 if config.num_seeds >= 4 else None
    out.append(
        Claim(
            quantity="rank correlation of effect and nats",
            here=f"{rho:.2f} [{low:.2f}, {high:.2f}]",
            seeds=len(found.means),
            holds=holds,
        )
    )
    return out
