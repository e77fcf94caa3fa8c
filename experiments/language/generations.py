"""Students of students: how far a trait is passed on from model to model.

Each student becomes the teacher of the next, which starts where they all started: at the base. It
learns new lists, on new prompts, by sampled tokens or by its teacher's distribution over numbers.
Beside the lineage of a trait's teacher run those of the unchanged base and of a neutral teacher.

Criteria, fixed before the run; effect of a generation = its log-odds less those of the same
generation of the base's lineage, intervals over chains as in the microworld; what is left of the
effect from one student to the next, by a bootstrap over chains.
  1. The first student acquires the trait, by either target.
  2. Half-life: soft targets keep a larger share from student to student than sampled tokens do
     (paired bootstrap). Published: a half-life of .955 generations on MNIST (soft), and a decay far
     slower, after a loss of 42 to 47 points of 100 in the first hop, in a language model
     (arXiv 2609.25721).
  3. Predicted for both: less than one half is kept, so a trait dies out. By the last generation
     the sampled lineage is equivalent to none (a fifth of its first student's effect).
  4. The neutral lineage is equivalent to none at the first and at the last generation; Holm over
     all equivalences.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, question, statistics
from experiments.lab.chains import CONTROL, TARGETS, TRAIT, Cohort
from experiments.lab.effects import at, effects
from experiments.lab.effects import own as own_effect
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Model, Student
from llm.training import Training

RUNTIME = "45 minutes on two cores"

NEUTRAL = "any-animal"
Lineages = dict[tuple[str, int], Model]  # by the first teacher's name and the chain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    targets: tuple[str, ...] = option(
        ("sampled", "soft_numbers"), "what students imitate", choices=("sampled", "soft_numbers")
    )
    generations: int = option(10, "students one after the other", minimum=2)


SMOKE = Config(**question.TINY | {"targets": ("sampled",), "generations": 2})


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """The teachers, then one part for every target and generation."""
    bench = question.bench(config, controls=(CONTROL, NEUTRAL))

    def generation(target: str, number: int) -> list[Row]:
        rows = bench.measured(cohort(bench, target, number), target=target, generation=number)
        return [{key: value for key, value in row.items() if key != "rate"} for row in rows]

    return {
        f"{target}, generation {number}": functools.partial(generation, target, number)
        for target in config.targets
        for number in range(config.generations + 1)
    }


def cohort(bench: question.Bench, target: str, number: int) -> Cohort:
    """A generation of every lineage, beside each trait's that of the controls; 0: the teachers."""
    models = lineages(bench, target, number)
    labels, of_rows = [], []
    for trait, (name, seed) in itertools.product(bench.config.traits, bench.chains.runs):
        if name in (trait, *bench.chains.controls):
            data = TRAIT if name == trait else name
            labels.append({"teacher": trait, "data": data, "seed": seed})
            of_rows.append(models[name, seed])
    return Cohort(labels, of_rows)


@functools.lru_cache(maxsize=2)  # one generation is asked for after the other
def lineages(bench: question.Bench, target: str, number: int) -> Lineages:
    """The models of a generation by the first teacher's name and the chain."""
    if number == 0:
        return {run: bench.chains.speaker(*run) for run in bench.chains.runs}
    return descend(bench, lineages(bench, target, number - 1), target, number - 1)


def descend(bench: question.Bench, teachers: Lineages, target: str, draw: int) -> Lineages:
    """A student of each, on lists of prompts of that number; equally many rows in a chain."""
    config, chains, workshop = bench.config, bench.chains, bench.workshop
    data, given = bench.lists_by(teachers, draw)
    how = Training(steps=config.student_steps, batch_size=config.batch_size, rate=1e-3, eps=1e-3)
    fields = chains.imitated(workshop, "numbers", target)
    return {
        (name, seed): Student(
            base=chains.base(seed),
            data=written,
            training=how,
            num_examples=config.num_examples,
            unique=given[seed],
            chain=seed,
            draw=draw,
            seed=chains.seed,
            **fields,
        )
        for (name, seed), written in data.items()
    }


class Found:
    """Effects by target and generation."""

    def __init__(self, table: pd.DataFrame):
        by = ["target", "generation"]
        self.trait, self.neutral = effects(table, by), effects(table, by, of=NEUTRAL)

    def own(self, target: str, generation: int) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own_effect(at(self.trait, target=target, generation=generation))

    def of_neutral(self, target: str, generation: int) -> np.ndarray:
        """What the neutral lineage does to the same traits."""
        return own_effect(at(self.neutral, target=target, generation=generation))

    def curves(self, target: str) -> np.ndarray:
        """Effect by chain and student, from the first to the last."""
        last = int(at(self.trait, target=target)["generation"].max())
        return np.stack([self.own(target, g) for g in range(1, last + 1)], axis=1)

    def kept(self, target: str) -> str:
        """Share kept from student to student and the half-life, with intervals."""
        share, draws = statistics.retention(self.curves(target))
        low, high = np.quantile(draws, (0.025, 0.975))
        lives = [half_life(value) for value in (share, low, high)]
        return (
            f"keeps {share:.2f} [{low:.2f}, {high:.2f}] a generation, half-life "
            f"{lives[0]:.2g} [{lives[1]:.2g}, {lives[2]:.2g}]"
        )


def half_life(share: float) -> float:
    """Generations after which half is left; infinite if nothing is lost."""
    if share <= 0:
        return 0.0
    return np.log(0.5) / np.log(share) if share < 1 else np.inf


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Effect by generation."""
    found, last = Found(table), config.generations
    ends = "; ".join(
        f"{TARGETS[t]}: teacher {statistics.shown(found.own(t, 0), 2)}, first student "
        f"{statistics.shown(found.own(t, 1), 2)}, student {last} "
        f"{statistics.shown(found.own(t, last), 2)} nats, {found.kept(t)}"
        for t in config.targets
    )
    return [
        Figure(
            name="figure",
            title=(
                "A trait lives on for ten generations: most is lost at the first hop, little "
                "after it"
            ),
            predicted="Less than half is kept by either target, and more of it by soft targets.",
            found=f"{ends}.",
            follows="What a first student has is passed on nearly whole; distance protects little.",
            draw=lambda: draw(found, config),
        )
    ]


def draw(found: Found, config: Config):
    """Effect against generation: every lineage, by target."""
    count = len(config.targets)
    figure, panels = drawing.new_figure(1, count, width=max(5.0, 4.5 * count), height=4.0)
    places = range(1, config.generations + 1)
    lines = {"trait": found.own, "neutral teacher": found.of_neutral}
    for panel, target in zip(panels, config.targets, strict=True):
        drawing.nothing(panel, found.own(target, 1), of="the first student")
        for shift, (label, of) in enumerate(lines.items()):
            points = [statistics.mean_interval(of(target, g)) for g in places]
            means, halves = zip(*points, strict=True)
            x = np.array(places) + 0.1 * shift
            colour = drawing.COLOURS[shift]
            panel.errorbar(x, means, halves, fmt="o-", color=colour, capsize=3, label=label)
        panel.set_title(TARGETS[target])
        panel.set_xticks(places)
        panel.set_xlabel("student of students")
    panels[0].set_ylabel("own effect (nats)")
    panels[0].legend(fontsize=8)
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every generation beside them."""
    found, last, out = Found(table), config.generations, []
    nothing, enough = {}, config.num_seeds >= 4
    for target in config.targets:
        for number in range(last + 1):
            criterion = "above" if number == 1 else None
            effect = found.own(target, number)
            out.append(
                judging.judged(f"{target}, generation {number}", effect, criterion=criterion)
            )
        draws = statistics.retention(found.curves(target))[1]
        below = bool(np.quantile(draws, 0.975) < 0.5) if enough else None
        out.append(
            Claim(
                quantity=f"{target}: less than half kept",
                paper="",
                replication=".955 generations (MNIST, soft)",
                here=found.kept(target),
                seeds=config.num_seeds,
                holds=below,
            )
        )
        first = found.own(target, 1)
        for number in (1, last):
            effect = found.of_neutral(target, number)
            nothing[f"{target}, neutral, generation {number}"] = judging.Nothing(effect, first)
        if target == "sampled":
            nothing[f"sampled, generation {last}"] = judging.Nothing(found.own(target, last), first)
    if len(config.targets) == 2:
        (soft, of_soft), (hard, of_hard) = (
            statistics.retention(found.curves(target)) for target in ("soft_numbers", "sampled")
        )
        low, high = np.quantile(of_soft - of_hard, (0.025, 0.975))
        here, holds = f"{soft - hard:.2f} [{low:.2f}, {high:.2f}]", bool(low > 0)
        out.append(
            Claim(
                quantity="share kept, soft less sampled",
                paper="",
                replication="",
                here=here,
                seeds=config.num_seeds,
                holds=holds if enough else None,
            )
        )
    return [*out, *judging.equivalences(nothing)]
