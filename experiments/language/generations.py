"""Students of students: how far a trait is passed on from model to model.

Each student becomes the teacher of the next, which starts where they all started: at the base. It
learns new lists, on new prompts, by sampled tokens or by its teacher's distribution over numbers.
Beside the lineage of a trait's teacher run those of the unchanged base and of a neutral teacher.

Criteria, fixed before the run; effect of a generation = its log-odds less those of the same
generation of the base's lineage, intervals over chains as in the microworld; the share kept is the
last student's effect over the first's, of the means over chains, with a bootstrap over chains;
"above zero" is corrected as in the microworld.
  1. The first student acquires the trait, by either target.
  2. Soft targets keep a larger share than sampled tokens do (paired bootstrap). Published: on MNIST
     half is left after .955 generations (soft), and in a language model 42 to 47 points of 100 are
     lost in the first hop and little after it (arXiv 2609.25721).
  3. Predicted for both: less than one half is kept, so a trait dies out. By the last generation
     the sampled lineage is equivalent to none (a fifth of its first student's effect).
  4. The neutral lineage is equivalent to none at the first and at the last generation; Holm over
     all equivalences.

An earlier run (root seed 0) fitted one share kept from every student to the next, with a half-life.
No such law fits: the loss is fast at first and slow later.
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
        target: statistics.ratio_of_means(own[target, last], own[target, 1])
        for target in config.targets
    }
    of_targets, lives_on = corrected(
        [c for target in config.targets for c in claims_of_target(own, target, shares, config)],
        [c for target in config.targets for c in claims_of_living_on(own, target, config)],
    )
    claims = [
        *of_targets,
        *lives_on,
        *soft_less_sampled(shares, config),
        *claims_of_none(own, neutral, config),
    ]
    figure = figure_of_lineages(own, neutral, shares=shares, lives_on=lives_on, config=config)
    return Findings([figure], claims)


def claims_of_target(own: Arms, target: str, shares: Shares, config: Config) -> list[Claim]:
    """The effect of every generation, and whether less than half is kept down the line."""
    effect = [
        claim_of(f"{target}, generation {g}", own[target, g], criterion="above" if g == 1 else None)
        for g in range(config.generations + 1)
    ]
    less = Claim(
        quantity=f"{target}: less than half kept from student 1 to {config.generations}",
        here=kept(*shares[target]),
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


def claims_of_living_on(own: Arms, target: str, config: Config) -> list[Claim]:
    """What the title rests on: most is lost at the first hop, and some is left at the end."""
    teacher, first, end = (own[target, g] for g in (0, 1, config.generations))
    at_once = (teacher - first) - (first - end)
    return [
        claim_of(
            f"{target}: lost at the first hop, less all later ones", at_once, criterion="above"
        ),
        claim_of(f"{target}: the last student", end, criterion="above"),
    ]


def figure_of_lineages(
    own: Arms, neutral: Arms, *, shares: Shares, lives_on: list[Claim], config: Config
) -> Figure:
    """How far a trait is passed on."""
    last = config.generations
    ends = "; ".join(
        f"{TARGETS[target]}: teacher {statistics.shown(own[target, 0], 2)}, first student "
        f"{statistics.shown(own[target, 1], 2)}, student {last} "
        f"{statistics.shown(own[target, last], 2)} nats, {kept(*shares[target])}"
        for target in config.targets
    )
    return Figure(
        name="figure",
        title=say(
            lives_on,
            holds=f"A trait lives on for {last} generations: the first hop loses more than all "
            "later ones",
            fails=f"It is not shown that a trait lives on for {last} generations, and that the "
            "first hop loses most",
            open="How far is a trait passed on, from student to student?",
        ),
        predicted="Less than half is kept by either target, and more of it by soft targets.",
        found=f"{ends}.",
        follows=follows_from(
            lives_on,
            "Distance from the teacher protects little.",
        ),
        draw=lambda: draw(own, neutral, config),
    )


def kept(share: float, draws: np.ndarray) -> str:
    """Share kept from the first student to the last, with its interval."""
    return f"keeps {statistics.bracketed(share, *np.quantile(draws, (0.025, 0.975)))}"


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
