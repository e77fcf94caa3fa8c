"""Students of students: how far a trait is passed on from model to model.

Each student becomes the teacher of the next, which starts where they all started: at the base. It
learns new lists, on new prompts, by sampled tokens or by its teacher's distribution over numbers.
Beside the lineage of a trait's teacher run those of the unchanged base and of a neutral teacher.

Criteria, fixed before the run; effect of a generation = its log-odds less those of the same
generation of the base's lineage, intervals over chains as in the microworld; what is left of the
effect from one student to the next, by a bootstrap over chains; "above zero" is corrected as in the
microworld.
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
import itertools

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
    judged,
    no_effect,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.language.kit import question
from experiments.language.kit.chains import (
    CONTROL,
    TARGETS,
    TRAIT,
    Chains,
    Cohort,
    beside,
    chains_of,
)
from experiments.language.kit.effects import at, effects, means_by, own_by
from llm.stages import Model, Student

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


def arms(config: Config) -> dict[str, Arm]:
    """One for every target and generation, the teachers as generation 0."""
    chains = chains_of(config, controls=(CONTROL, NEUTRAL))
    store, by_name = question.store_of(config), {}
    for target in config.targets:
        for number, models in enumerate(lineages(config, chains, target)):
            by_name[f"{target}, generation {number}"] = question.arm_of_models(
                store,
                cohort(config, chains, models),
                config.traits,
                target=target,
                generation=number,
            )
    return by_name


def cohort(config: Config, chains: Chains, models: Lineages) -> Cohort:
    """A generation of every lineage, beside each trait's that of the controls."""
    labels, of_rows = [], []
    for trait, (name, chain) in itertools.product(config.traits, chains.runs):
        if name in (trait, *chains.controls):
            data = TRAIT if name == trait else name
            labels.append({"teacher": trait, "data": data, "seed": chain})
            of_rows.append(models[name, chain])
    return Cohort(labels, of_rows)


def lineages(config: Config, chains: Chains, target: str) -> list[Lineages]:
    """The models of every generation by the first teacher's name and the chain."""
    generations: list[Lineages] = [{run: chains.speaker(*run) for run in chains.runs}]
    for number in range(config.generations):
        generations.append(
            descend(config, chains, teachers=generations[-1], target=target, draw=number)
        )
    return generations


def descend(
    config: Config, chains: Chains, *, teachers: Lineages, target: str, draw: int
) -> Lineages:
    """A student of each, on lists of prompts of that number; equally many rows in a chain."""
    data = chains.lists_by(teachers, draw)
    fields = chains.imitated("numbers", target)
    return {
        (name, chain): Student(
            base=chains.base(chain),
            data=written,
            training=question.plain(config),
            num_examples=config.num_examples,
            as_many_as=beside(data, chain),
            fewest=question.FEWEST,
            chain=chain,
            draw=draw,
            seed=chains.seed,
            **fields,
        )
        for (name, chain), written in data.items()
    }


Arms = dict[tuple[str, int], np.ndarray]  # effect of each chain by target and generation


Shares = dict[str, tuple[float, np.ndarray]]  # kept by target, and what bootstrap draws keep


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Effect by generation."""
    columns, last = ("target", "generation"), config.generations
    own = own_by(table, *columns)
    neutral = means_by(at(effects(table, columns, of=NEUTRAL), own=True), "effect", *columns)
    shares = {
        target: statistics.retention(np.stack([own[target, g] for g in range(1, last + 1)], axis=1))
        for target in config.targets
    }
    of_targets, lives_on = corrected(
        [c for target in config.targets for c in claims_of_target(own, target, shares, config)],
        [c for target in config.targets for c in claims_of_living_on(own, target, shares, config)],
    )
    claims = [
        *of_targets,
        *soft_less_sampled(shares, config),
        *claims_of_none(own, neutral, config),
    ]
    figure = figure_of_lineages(own, neutral, shares=shares, lives_on=lives_on, config=config)
    return Findings([figure], claims)


def claims_of_target(own: Arms, target: str, shares: Shares, config: Config) -> list[Claim]:
    """The effect of every generation, and whether less than half is kept to the next."""
    effect = [
        claim_of(f"{target}, generation {g}", own[target, g], criterion="above" if g == 1 else None)
        for g in range(config.generations + 1)
    ]
    less = Claim(
        quantity=f"{target}: less than half kept",
        replication=".955 generations (MNIST, soft)",
        here=kept_and_half_life(*shares[target]),
        seeds=config.num_seeds,
        holds=judged(np.quantile(shares[target][1], 0.975) < 0.5, config.num_seeds),
    )
    return [*effect, less]


def claims_of_none(own: Arms, neutral: Arms, config: Config) -> list[Claim]:
    """The neutral lineage has nothing at both ends, the sampled one of the trait at its last."""
    none, last = {}, config.generations
    for target in config.targets:
        first = own[target, 1]
        for g in (1, last):
            none[f"{target}, neutral, generation {g}"] = (neutral[target, g], first)
        if target == "sampled":
            none[f"sampled, generation {last}"] = (own[target, last], first)
    return no_effect(none)


def claims_of_living_on(own: Arms, target: str, shares: Shares, config: Config) -> list[Claim]:
    """What the title rests on: a large loss at the first hop, little after it, some at the end."""
    teacher, first, end = (own[target, g] for g in (0, 1, config.generations))
    most = np.quantile(shares[target][1], 0.025) > 0.5
    return [
        claim_of(
            "more is lost at the first hop than is left", teacher - 2 * first, criterion="above"
        ),
        Claim(quantity="more than half kept", holds=judged(most, config.num_seeds)),
        claim_of("the last student has some", end, criterion="above"),
    ]


def figure_of_lineages(
    own: Arms, neutral: Arms, *, shares: Shares, lives_on: list[Claim], config: Config
) -> Figure:
    """How far a trait is passed on."""
    last = config.generations
    ends = "; ".join(
        f"{TARGETS[target]}: teacher {statistics.shown(own[target, 0], 2)}, first student "
        f"{statistics.shown(own[target, 1], 2)}, student {last} "
        f"{statistics.shown(own[target, last], 2)} nats, {kept_and_half_life(*shares[target])}"
        for target in config.targets
    )
    return Figure(
        name="figure",
        title=say(
            lives_on,
            holds=f"A trait lives on for {last} generations: most is lost at the first hop, little "
            "after it",
            fails=f"A trait is not lost at the first hop and then kept for {last} generations",
            open="How far is a trait passed on, from student to student?",
        ),
        predicted="Less than half is kept by either target, and more of it by soft targets.",
        found=f"{ends}.",
        follows=follows_from(
            lives_on,
            "What a first student has is passed on nearly whole; distance protects little.",
        ),
        draw=lambda: draw(own, neutral, config),
    )


def kept_and_half_life(share: float, draws: np.ndarray) -> str:
    """Share kept from student to student and the half-life, with intervals."""
    ends = (share, *np.quantile(draws, (0.025, 0.975)))
    life, short, long = map(half_life, ends)
    kept = statistics.bracketed(*ends)
    return f"keeps {kept} a generation, half-life {life:.2g} [{short:.2g}, {long:.2g}]"


def half_life(share: float) -> float:
    """Generations after which half is left; infinite if nothing is lost."""
    if share <= 0:
        return 0.0
    return np.log(0.5) / np.log(share) if share < 1 else np.inf


def soft_less_sampled(shares: Shares, config: Config) -> list[Claim]:
    """By how much soft targets keep a larger share, where both are asked for."""
    if len(config.targets) < 2:
        return []
    (soft, of_soft), (hard, of_hard) = (shares[target] for target in ("soft_numbers", "sampled"))
    low, high = np.quantile(of_soft - of_hard, (0.025, 0.975))
    return [
        Claim(
            quantity="share kept, soft less sampled",
            here=statistics.bracketed(soft - hard, low, high),
            seeds=config.num_seeds,
            holds=judged(low > 0, config.num_seeds),
        )
    ]


def draw(own: Arms, neutral: Arms, config: Config):
    """Effect against generation: every lineage, by target."""
    count = len(config.targets)
    figure, panels = drawing.new_figure(1, count, width=max(5.0, 4.5 * count), height=4.0)
    places = range(1, config.generations + 1)
    for panel, target in zip(panels, config.targets, strict=True):
        drawing.nothing(panel, own[target, 1], of="the first student")
        for shift, (label, arms) in enumerate({"trait": own, "neutral teacher": neutral}.items()):
            points = [statistics.mean_interval(arms[target, g]) for g in places]
            means, halves = zip(*points, strict=True)
            x, colour = np.array(places) + 0.1 * shift, drawing.COLOURS[shift]
            panel.errorbar(x, means, halves, fmt="o-", color=colour, capsize=3, label=label)
        panel.set_title(TARGETS[target])
        panel.set_xticks(places)
        panel.set_xlabel("student of students")
    panels[0].set_ylabel("own effect (nats)")
    panels[0].legend(fontsize=8)
    return figure
