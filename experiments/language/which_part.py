"""Which part of a language model's start must be shared, and how far siblings may drift apart.

The teacher's base gives one part of itself (embeddings, which are the head too; attention, MLPs,
norms, a block, several of them) to a base of other initial weights, which is then trained on the
corpus once more as bases are, with that part held: it shares that part and nothing else. Siblings
share everything once: the teacher's own base trained for some steps more on text of its own, or a
base of the same initial weights trained on another corpus throughout. A twin is the base with its
units in random order: the same function, no weight in its place. Students imitate the teacher's
distribution over numbers.

Criteria, fixed before the run; effects, intervals and equivalence (a fifth of the same start's
effect, Holm over all starts that are claimed to give nothing) as in the microworld, paired; "above
zero" is corrected as there.
  1. Twin: its students of the traits' data answer like those of the same start, to 1e-3 nats in
     every chain. What must be shared is no weight by its place but the function with its tangent
     kernel; training is equivariant under permutations. (Not its controls: where a student starts
     as its soft teacher, gradients are round-off, and grow by the instability of large steps.)
  2. Parts: no single part gives what the whole gives (paired difference above zero for each).
     Predicted from an earlier run: embeddings a fifth to a half, every other single part none.
  3. Drift: the mean effect falls with the steps apart (rank correlation below -.8), and a base of
     the same initial weights but another corpus still gives more than one of other weights.
  4. Starts are comparable: the loss on held-out corpus of every grafted start is within .1 nats a
     token of the base's, on average over chains. Where it is not, the arm says nothing.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    judged,
    no_effect,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import question
from experiments.language.kit.chains import Chains, Cohort, chains_of, different, same, twin
from experiments.language.kit.effects import at, effects, own_by
from llm.stages import Continued, Grafted, Model, Store
from llm.stages.bases import corpus_loss

RUNTIME = "35 minutes on two cores"

PARTS = {
    "embeddings": ("embedding",),
    "attention": ("attention",),
    "MLPs": ("mlp",),
    "norms": ("norms",),
    "block 0": ("block0",),
    "block 1": ("block1",),
    "both blocks": ("block0", "block1", "norms"),
}
# Four times that of bases: brings grafts closer to them on held-out text than as many steps more.
REPAIR_RATE = 2e-2
SINGLE = ("embeddings", "attention", "MLPs", "norms", "block 0", "block 1")
NOTHING = ("different", "attention", "MLPs", "norms", "block 0", "block 1")  # predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    traits: tuple[str, ...] = option(("owl",), "traits of the teachers")
    parts: tuple[str, ...] = option(tuple(PARTS), "that are shared", choices=tuple(PARTS))
    repair_steps: int = option(1000, "of a grafted base on the corpus, its part held", minimum=1)
    apart: tuple[int, ...] = option(
        (10, 30, 100, 300, 1000), "steps that siblings go on alone", minimum=1
    )


SMOKE = Config(**question.TINY | {"parts": ("embeddings",), "repair_steps": 5, "apart": (2,)})


def shared(part: str, repair_steps: int) -> Callable[[Chains, int], Model]:
    """Another base with a part of the teacher's, trained on the corpus with that part held."""

    def start(chains: Chains, chain: int) -> Model:
        grafted = Grafted(
            base=different(chains, chain), donor=chains.base(chain), parts=PARTS[part]
        )
        return Continued(
            base=grafted,
            steps=repair_steps,
            held=PARTS[part],
            learning_rate=REPAIR_RATE,
            warmup=repair_steps // 20,
            chain=chain,
            seed=chains.seed,
        )

    return start


def sibling(steps: int) -> Callable[[Chains, int], Model]:
    """The teacher's base after steps of its own."""
    return lambda chains, chain: Continued(
        base=chains.base(chain), steps=steps, chain=chain, seed=chains.seed
    )


def other_corpus(chains: Chains, chain: int) -> Model:
    """A base of the same initial weights, trained on another corpus from the first step."""
    return dataclasses.replace(chains, corpus=1).base(chain)


def starts(config: Config) -> dict[str, Callable[[Chains, int], Model]]:
    """All arms by name."""
    return (
        {"same": same, "different": different, "permuted twin": twin}
        | {part: shared(part, config.repair_steps) for part in config.parts}
        | {f"{steps} steps apart": sibling(steps) for steps in config.apart}
        | {"initial weights": other_corpus}
    )


def arms(config: Config) -> dict[str, Arm]:
    """One for every start.

    Raises:
        ValueError: parts by block of bases that have not two.
    """
    if config.num_layers != 2 and any("block" in part for part in config.parts):
        raise ValueError("parts by block are those of two layers: --num-layers 2, or other --parts")
    chains, store, by_name = chains_of(config), question.store_of(config), {}
    for name, start in starts(config).items():
        cohort = question.students(config, chains, target="soft_numbers", start=start)
        facts = functools.partial(losses_of_starts, store, cohort)
        by_name[name] = question.arm_of_students(
            store, cohort, config.traits, facts=facts, start=name
        )
    return by_name


def losses_of_starts(store: Store, cohort: Cohort) -> list[Row]:
    """The loss on the corpus of what each student starts from: one that it spoils says nothing."""
    bases = {row["seed"]: model.base for row, model in zip(cohort.labels, cohort, strict=True)}
    losses = corpus_loss(store, list(bases.values()))
    return [{"corpus_loss": losses[row["seed"]]} for row in cohort.labels]


Effects = dict[str, np.ndarray]  # of each chain, by start


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Parts, and drift."""
    own = own_by(table, "start")
    whole, predicted = own["same"], [n for n in NOTHING if n in (*config.parts, "different")]
    as_twin, fall = claim_on_twin(table, config), claims_on_drift(own, config)
    birth = own["initial weights"] - own["different"]
    single, of_birth = corrected(
        [
            claim_of(f"same less {name}", whole - own[name], criterion="above")
            for name in SINGLE
            if name in config.parts
        ],
        claim_of("initial weights less different", birth, criterion="above"),
    )
    claims = [
        *claims_of_starts(table, own, config),
        as_twin,
        *single,
        of_birth,
        *fall,
        *no_effect({name: (own[name], whole) for name in predicted}),
    ]
    figures = [figure_of_parts(own, [as_twin, *single], config), figure_of_drift(own, fall, config)]
    return Findings(figures, claims)


def claims_of_starts(table: pd.DataFrame, own: Effects, config: Config) -> list[Claim]:
    """The effect from every start; criterion 4: grafted ones know the corpus like the base."""
    losses = table.groupby("start")["corpus_loss"].mean()
    worse = {start: float(losses[start] - losses["same"]) for start in own}

    def beside(name: str) -> Claim:
        here = f"{statistics.shown(own[name], 2)}, corpus loss {worse[name]:+.2f}"
        comparable = judged(abs(worse[name]) < 0.1, config.num_seeds) if name in PARTS else None
        return Claim(quantity=name, here=here, seeds=len(own["same"]), holds=comparable)

    return [*map(beside, starts(config))]


def claim_on_twin(table: pd.DataFrame, config: Config) -> Claim:
    """Criterion 1: a permuted twin's students answer like those of the same start."""
    moved = moved_by_permutation(table)
    return Claim(
        quantity="permuted twin less same",
        here=f"at most {moved:.0e}",
        seeds=table["seed"].nunique(),
        holds=judged(moved < 1e-3, config.num_seeds),
    )


def figure_of_parts(own: Effects, carried: list[Claim], config: Config) -> Figure:
    """What single parts carry: the twin all, each part less than the whole."""
    shown = statistics.shown_each(own, 2)
    each = ", ".join(f"{part} {shown[part]}" for part in config.parts)
    return Figure(
        name="figure",
        title=say(
            carried,
            holds="No single part of the start carries what the whole carries",
            fails="A part of the start carries as much as the whole",
            open="Does any part of the start carry what the whole carries?",
        ),
        predicted="A permuted twin equals the same start; embeddings alone keep little, "
        "others nothing.",
        found=f"Same {shown['same']}, twin {shown['permuted twin']}, {each}, different "
        f"{shown['different']} nats.",
        follows="What must be shared is the function with its features, not weights in their "
        "places.",
        draw=lambda: draw_parts(own, config),
    )


def figure_of_drift(own: Effects, fall: list[Claim], config: Config) -> Figure:
    """How far siblings may part."""
    shown, last = statistics.shown_each(own, 2), siblings(config)[-1]
    return Figure(
        name="drift",
        title=say(
            fall,
            holds="Siblings keep the channel long after they part; one initialisation is not "
            "enough",
            fails="The effect does not fall with the steps that siblings go alone",
            open="How far may siblings drift apart?",
        ),
        predicted="The effect falls with every step that the student's start goes alone.",
        found=f"Same {shown['same']}, {last} {shown[last]}, same initial weights but another "
        f"corpus {shown['initial weights']} nats.",
        follows="Shared must be what pre-training made of the weights, not the weights at birth.",
        draw=lambda: draw_drift(own, config),
    )


def siblings(config: Config) -> list[str]:
    """The starts by the steps that they went alone, none included."""
    return ["same", *(f"{steps} steps apart" for steps in config.apart)]


def moved_by_permutation(table: pd.DataFrame) -> float:
    """Largest difference in nats between a twin's student and that of the same start."""
    keys = ["teacher", "trait", "seed"]
    students = effects(table, ["start"])
    ours, twins = (
        at(students, start=start).set_index(keys)["margin"] for start in ("same", "permuted twin")
    )
    return float((ours - twins).abs().max())


def claims_on_drift(own: Effects, config: Config) -> list[Claim]:
    """Rank correlation of the mean effect with the steps apart, 0 included."""
    if len(config.apart) < 3:
        return []
    means = [own[name].mean() for name in siblings(config)]
    rho = statistics.rank_correlation([0, *config.apart], means)
    return [
        Claim(
            quantity="rank correlation, effect and steps apart",
            here=f"{rho:.2f}",
            seeds=len(means),
            holds=judged(rho < -0.8, config.num_seeds),
        )
    ]


def draw_parts(own: Effects, config: Config):
    """Every chain of every grafted start."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    names = ["same", "permuted twin", *config.parts, "different"]
    whole = dict.fromkeys({"same", "permuted twin", "different"}, drawing.COLOURS[1])
    drawing.strip(panel, {name: own[name] for name in names}, whole)
    drawing.nothing(panel, own["same"])
    panel.set_ylabel("own effect (nats), KL over numbers")
    panel.legend()
    return figure


def draw_drift(own: Effects, config: Config):
    """Effect against steps apart."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    apart = [f"{steps} steps apart" for steps in config.apart]
    names = ["same", *apart, "initial weights", "different"]
    ends = dict.fromkeys(set(names) - set(apart), drawing.COLOURS[1])
    drawing.strip(panel, {name: own[name] for name in names}, ends)
    drawing.nothing(panel, own["same"])
    ticks = ["0", *map(str, config.apart), "initial\nweights", "different"]
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlabel("pre-training steps that the student's start went alone")
    panel.set_ylabel("own effect (nats), KL over numbers")
    panel.legend()
    return figure
