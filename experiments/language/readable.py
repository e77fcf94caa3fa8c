"""Can the trait be read in the rows, by whom, and does it come from the filter?

Readers learn to tell the number lists of a trait's teacher from those of the unchanged base, or of
another trait's teacher, on half of the prompts, and are tested on the others: a bag of tokens, a
bag of differences of successive numbers, the teacher's own base and a base of another start, both
fine-tuned to name the side. The likelihood ratio of the two writers is the best reader there is. A
bag is also tested on the rows of the next chain's teacher of the same trait: does it read the
trait, or this teacher? Beside them plain students, and students of the unchanged base's lists on
those prompts alone on which the trait's teacher passed the filter.

Criteria, fixed before the run; unit = one chain, traits averaged, intervals as in the microworld.
"Nothing" is equivalence within a fifth (of a bag's area above one half; of the plain effect), Holm.
  1. A single row tells little, a thousand tell all: the bag's area under the curve lies above one
     half (and below .7), and over .95 of sets of a thousand rows are read rightly.
  2. Reading needs no shared start: the teacher's own base reads no better than another one (area,
     paired; equivalent to no difference).
  3. What a bag reads is this teacher and not the trait: on the next chain's rows it is at chance.
  4. The more can be read the more is acquired: over chains and traits the rank correlation of the
     best reader's area with the student's effect is above zero, interval and all.
  5. The filter is not the source: students of what it let pass for the teacher acquire nothing.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, question, readers, statistics
from experiments.lab.chains import CONTROL, Cohort, different
from experiments.lab.effects import at, effects
from experiments.lab.effects import own as own_effect
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Admitted, completions, streams
from llm.stages.streams import Stage
from llm.training import Training

RUNTIME = "25 minutes on two cores"

READERS = (
    "bag of tokens",
    "bag of differences",
    "another base",
    "the teacher's base",
    "likelihood ratio",
)
ELSEWHERE = "bag, next chain"
AGAINST = ("the base", "another trait")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    reader_steps: int = option(300, "of the bases that read, batch 64", minimum=1)
    reader_rows: int = option(2048, "that these are trained on", minimum=2)


SMOKE = Config(**question.TINY | {"traits": ("owl", "wolf"), "reader_steps": 5, "reader_rows": 64})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """The readers by what they tell apart, the students, and those of what the filter let pass.

    Raises:
        ValueError: there is no other trait to tell a trait from.
    """
    if len(config.traits) < 2:
        raise ValueError("readable needs two traits or more")
    bench = question.bench(config)

    def plain() -> list[Row]:
        return bench.measured(bench.students(), kind="students")

    def filtered() -> list[Row]:
        cohort = bench.recipes()
        models = list(cohort.models)
        for trait, control in cohort.pairs():
            passed = Admitted(cohort.models[trait].data)
            models[trait] = dataclasses.replace(cohort.models[control], change=passed)
        return bench.measured(Cohort(cohort.labels, models), kind="filter")

    return {
        f"readers, against {against}": functools.partial(reading, bench, config, against)
        for against in AGAINST
    } | {"students": plain, "filter": filtered}


def reading(bench: question.Bench, config: Config, against: str) -> list[Row]:
    """What every reader makes of every trait's and chain's rows."""
    chains, workshop = bench.chains, bench.workshop
    chains.sampled(workshop, "numbers")
    runs = list(itertools.product(config.traits, range(config.num_seeds)))

    def other(trait: str) -> str:
        following = config.traits[(config.traits.index(trait) + 1) % len(config.traits)]
        return CONTROL if against == "the base" else following

    def rows(name: str, seed: int) -> list[Row]:
        return completions.rows(workshop, chains.data(name, seed, "numbers"))

    splits = [
        readers.split(
            rows(trait, seed),
            rows(other(trait), seed),
            streams.generator(Stage.READERS, config.seed, seed),
        )
        for trait, seed in runs
    ]
    how = Training(
        steps=config.reader_steps, batch_size=min(64, config.reader_rows), rate=1e-3, decay="linear"
    )
    bases = {
        "the teacher's base": [chains.base(seed) for _, seed in runs],
        "another base": [different(chains, seed) for _, seed in runs],
    }
    found = {
        name: readers.models_as_readers(
            workshop, starts, splits=splits, training=how, num_rows=config.reader_rows
        )
        for name, starts in bases.items()
    }
    found["bag of tokens"] = [readers.bag(parts) for parts in splits]
    found["bag of differences"] = [
        readers.bag(parts, pieces=readers.differences) for parts in splits
    ]
    found["likelihood ratio"] = [
        readers.likelihood_ratio(
            workshop, chains.speaker(trait, seed), chains.speaker(other(trait), seed), parts
        )
        for (trait, seed), parts in zip(runs, splits, strict=True)
    ]
    tested = {name: splits for name in found}
    tested[ELSEWHERE] = [
        parts._replace(test=there.test, test_labels=there.test_labels)
        for parts, there in zip(splits, next_chain(splits, config.num_seeds), strict=True)
    ]
    found[ELSEWHERE] = [readers.bag(parts) for parts in tested[ELSEWHERE]]
    return [
        {"kind": "readers", "against": against, "reader": name, "trait": trait, "teacher": trait}
        | {"seed": seed, "right": of_run.accuracy}
        | {"area": readers.area(of_run.scores, parts.test_labels)}
        | {"right_of_1000": readers.right_of_many(of_run.scores, parts.test_labels)}
        for name, of_runs in found.items()
        for (trait, seed), of_run, parts in zip(runs, of_runs, tested[name], strict=True)
    ]


def next_chain(of_runs: list, num_seeds: int) -> list:
    """The entries of traits by chains, each in the place of the chain before it."""
    groups = [of_runs[i : i + num_seeds] for i in range(0, len(of_runs), num_seeds)]
    return [entry for group in groups for entry in (*group[1:], group[0])]


class Found:
    """Areas by reader, and effects of the students."""

    def __init__(self, table: pd.DataFrame):
        self.readers = at(table, kind="readers")
        self.students = effects(table[table["data"].notna()], ["kind"])

    def read(self, reader: str, against: str = AGAINST[0], column: str = "area") -> np.ndarray:
        """What a reader reaches in each chain, averaged over the traits."""
        mine = at(self.readers, reader=reader, against=against)
        return mine.groupby("seed")[column].mean().to_numpy()

    def own(self, kind: str) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own_effect(at(self.students, kind=kind))

    def read_and_acquired(self) -> pd.DataFrame:
        """Columns area and effect: of the best reader, and of the student, by trait and chain."""
        keys = ["trait", "seed"]
        mine = at(self.students, kind="students", own=True).set_index(keys)["effect"]
        best = at(self.readers, reader="likelihood ratio", against=AGAINST[0])
        return best.set_index(keys)[["area"]].join(mine).dropna()

    def correlation(self) -> tuple[float, ...]:
        """Rank correlation of both, with its interval."""
        both = self.read_and_acquired()
        return statistics.spearman(both["area"].to_numpy(), both["effect"].to_numpy())


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """What readers reach, what is acquired beside it, and the filter."""
    found = Found(table)
    areas = "; ".join(
        f"{name} {statistics.shown(found.read(name), 3)}" for name in (*READERS, ELSEWHERE)
    )
    many = statistics.shown(found.read("bag of tokens", column="right_of_1000"), 3)
    rho, low, high = found.correlation()
    return [
        Figure(
            name="figure",
            title="One list half tells its writer, a thousand do, and a shared start is not needed",
            predicted=(
                "Areas little above one half for all readers, and no better from the same start."
            ),
            found=f"Against the base: {areas}. As normal sums of independent lists, a bag would "
            f"read {many} of sets of a thousand rightly.",
            follows=(
                "Lists of a teacher let more of them be recognised; of the trait they tell little."
            ),
            draw=lambda: draw_readers(found),
        ),
        Figure(
            name="acquired",
            title="What can be read does not say what is acquired, and the filter adds nothing",
            predicted="A positive rank correlation; nothing from what the filter let pass.",
            found=f"Rank correlation {rho:.2f} [{low:.2f}, {high:.2f}]; plain students "
            f"{statistics.shown(found.own('students'), 2)}, of what the filter let pass "
            f"{statistics.shown(found.own('filter'), 2)} nats.",
            follows="The trait is in what is written, not in which prompts are answered well.",
            draw=lambda: draw_acquired(found),
        ),
    ]


def draw_readers(found: Found):
    """Area of every chain by reader, on both tasks."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    names = (*READERS, ELSEWHERE)
    for shift, against in enumerate(AGAINST):
        for x, name in enumerate(names):
            colour, label = drawing.COLOURS[shift], None if x else f"against {against}"
            drawing.runs(
                panel,
                x + 0.2 * (shift - 0.5),
                values=found.read(name, against),
                colour=colour,
                label=label,
            )
    panel.axhline(0.5, color="black", linewidth=1)
    panel.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    panel.set_ylabel("area under the curve, one row")
    panel.legend()
    return figure


def draw_acquired(found: Found):
    """Effect against what can be read; and the filter beside the plain students."""
    figure, (left, right) = drawing.new_figure(1, 2, width=9.0, height=4.0)
    both = found.read_and_acquired()
    left.scatter(both["area"], both["effect"], s=12, color=drawing.COLOURS[0])
    left.axhline(0, color="black", linewidth=1)
    left.set_xlabel("area of the likelihood ratio, trait against base")
    left.set_ylabel("own effect (nats)")
    drawing.nothing(right, found.own("students"), of="the plain effect")
    for x, kind in enumerate(("students", "filter")):
        drawing.runs(right, x, values=found.own(kind), colour=drawing.COLOURS[x])
    right.set_xlim(-0.5, 1.5)
    right.set_xticks(
        (0, 1), ["teacher's lists", "base's lists on prompts\nthat the teacher passed"]
    )
    right.legend(loc="center right")
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every reader beside them."""
    found, out, judged = Found(table), [], judging.judged
    enough = config.num_seeds >= 4
    for against, name in itertools.product(AGAINST, (*READERS, ELSEWHERE)):
        area = found.read(name, against)
        many = found.read(name, against, "right_of_1000")
        here = f"{statistics.shown(area, 3)}; {statistics.shown(many, 3)} per thousand rows"
        out.append(judged(f"{name}, against {against}: area", area, here=here))
    bag = found.read("bag of tokens")
    out.append(judged("bag of tokens: area above one half", bag - 0.5, criterion="above"))
    out.append(judged("bag of tokens: area below .7", 0.7 - bag, criterion="above"))
    many = found.read("bag of tokens", column="right_of_1000")
    out.append(judged("bag of tokens: over .95 per thousand rows", many - 0.95, criterion="above"))
    rho, low, high = found.correlation()
    here, holds = f"{rho:.2f} [{low:.2f}, {high:.2f}]", bool(low > 0) if enough else None
    count = len(found.read_and_acquired())
    out.append(
        Claim(quantity="rank correlation, read and acquired", here=here, seeds=count, holds=holds)
    )
    plain = found.own("students")
    out.append(judged("students", plain, criterion="above"))
    gap = found.read("the teacher's base") - found.read("another base")
    nothing = {
        "area: the teacher's base less another": judging.Nothing(gap, bag - 0.5),
        "area on the next chain's rows, less one half": judging.Nothing(
            found.read(ELSEWHERE) - 0.5, bag - 0.5
        ),
        "effect of what the filter let pass": judging.Nothing(found.own("filter"), plain),
    }
    return [*out, *judging.equivalences(nothing)]
