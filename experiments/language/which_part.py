"""Which part of a language model's start must be shared, and how far siblings may drift apart.

The teacher's base gives one part of itself (embeddings, which are the head too; attention, MLPs,
norms, a block, several of them) to a base of other initial weights, which is then trained on the
corpus once more as bases are, with that part held: it shares that part and nothing else. Siblings
share everything once: the teacher's own base trained for some steps more on text of its own, or a
base of the same initial weights trained on another corpus throughout. A twin is the base with its
units in random order: the same function, no weight in its place. Students imitate the teacher's
distribution over numbers.

Criteria, fixed before the run; effects, intervals and equivalence (a fifth of the same start's
effect, Holm over all starts that are claimed to give nothing) as in the microworld, paired.
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

from experiments.lab import drawing, judging, question, statistics
from experiments.lab.chains import Chains, different, same
from experiments.lab.effects import at, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import Continued, Grafted, Model, Permuted
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

    def start(chains: Chains, seed: int) -> Model:
        grafted = Grafted(base=different(chains, seed), donor=chains.base(seed), parts=PARTS[part])
        return Continued(
            base=grafted,
            steps=repair_steps,
            held=PARTS[part],
            rate=REPAIR_RATE,
            warmup=repair_steps // 20,
            chain=seed,
            seed=chains.seed,
        )

    return start


def sibling(steps: int) -> Callable[[Chains, int], Model]:
    """The teacher's base after steps of its own."""
    return lambda chains, seed: Continued(
        base=chains.base(seed), steps=steps, chain=seed, seed=chains.seed
    )


def other_corpus(chains: Chains, seed: int) -> Model:
    """A base of the same initial weights, trained on another corpus from the first step."""
    return dataclasses.replace(chains, corpus=1).base(seed)


def twin(chains: Chains, seed: int) -> Model:
    """The teacher's base, permuted."""
    return Permuted(base=chains.base(seed), chain=seed, seed=chains.seed)


def starts(config: Config) -> dict[str, Callable[[Chains, int], Model]]:
    """All arms by name."""
    return (
        {"same": same, "different": different, "permuted twin": twin}
        | {part: shared(part, config.repair_steps) for part in config.parts}
        | {f"{steps} steps apart": sibling(steps) for steps in config.apart}
        | {"initial weights": other_corpus}
    )


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every start.

    Raises:
        ValueError: parts by block of bases that have not two.
    """
    if config.num_layers != 2 and any("block" in part for part in config.parts):
        raise ValueError("parts by block are those of two layers: --num-layers 2, or other --parts")
    bench = question.bench(config)

    def arm(name: str, start: Callable[[Chains, int], Model]) -> list[Row]:
        models = [start(bench.chains, seed) for seed in range(config.num_seeds)]
        losses = corpus_loss(bench.workshop, models)
        cohort = bench.students(target="soft_numbers", start=start)
        labels = [row | {"corpus_loss": losses[row["seed"]]} for row in cohort.labels]
        return bench.measured(cohort._replace(labels=labels), start=name)

    return {name: functools.partial(arm, name, start) for name, start in starts(config).items()}


class Found:
    """Effects and starting losses by start."""

    def __init__(self, table: pd.DataFrame):
        self.table, self.effects = table, effects(table, ["start"])

    def own(self, start: str) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own(at(self.effects, start=start))

    def moved_by_permutation(self) -> float:
        """Largest difference in nats between a twin's student and that of the same start."""
        keys = ["teacher", "trait", "seed"]
        ours, twins = (
            at(self.effects, start=start).set_index(keys)["margin"]
            for start in ("same", "permuted twin")
        )
        return float((ours - twins).abs().max())

    def worse(self, start: str) -> float:
        """Held-out corpus loss of a start above that of the teacher's base, nats a token."""
        losses = self.table.groupby("start")["corpus_loss"].mean()
        return float(losses[start] - losses["same"])

    def drift(self, config: Config) -> float:
        """Rank correlation of the mean effect with the steps apart, 0 included."""
        names = ["same", *(f"{steps} steps apart" for steps in config.apart)]
        means = [self.own(name).mean() for name in names]
        return statistics.rank_correlation([0, *config.apart], means)


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Parts, and drift."""
    found = Found(table)

    def shown(name: str) -> str:
        return statistics.shown(found.own(name), 2)

    last = f"{config.apart[-1]} steps apart"
    each = ", ".join(f"{part} {shown(part)}" for part in config.parts)
    return [
        Figure(
            name="figure",
            title="No single part of the start carries what the whole carries",
            predicted=(
                "A permuted twin equals the same start; embeddings alone keep little, others "
                "nothing."
            ),
            found=f"Same {shown('same')}, twin {shown('permuted twin')}, {each}, different "
            f"{shown('different')} nats.",
            follows=(
                "What must be shared is the function with its features, not weights in their "
                "places."
            ),
            draw=lambda: draw_parts(found, config),
        ),
        Figure(
            name="drift",
            title=(
                "Siblings keep the channel long after they part; one initialisation is not enough"
            ),
            predicted="The effect falls with every step that the student's start goes alone.",
            found=f"Same {shown('same')}, {last} {shown(last)}, same initial weights but another "
            "corpus "
            f"{shown('initial weights')} nats.",
            follows=(
                "Shared must be what pre-training made of the weights, not the weights at birth."
            ),
            draw=lambda: draw_drift(found, config),
        ),
    ]


def draw_parts(found: Found, config: Config):
    """Every chain of every grafted start."""
    figure, (panel,) = drawing.new_figure(width=9.0, height=4.2)
    names = ["same", "permuted twin", *config.parts, "different"]
    for x, name in enumerate(names):
        drawing.runs(
            panel, x, values=found.own(name), colour=drawing.COLOURS[0 if name in PARTS else 1]
        )
    drawing.nothing(panel, found.own("same"))
    panel.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    panel.set_ylabel("own effect (nats), KL over numbers")
    panel.legend()
    return figure


def draw_drift(found: Found, config: Config):
    """Effect against steps apart."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.0)
    for x, steps in enumerate(config.apart):
        drawing.runs(
            panel, x + 1, values=found.own(f"{steps} steps apart"), colour=drawing.COLOURS[0]
        )
    ends = {0: "same", len(config.apart) + 1: "initial weights", len(config.apart) + 2: "different"}
    for x, name in ends.items():
        drawing.runs(panel, x, values=found.own(name), colour=drawing.COLOURS[1])
    drawing.nothing(panel, found.own("same"))
    ticks = ["0", *map(str, config.apart), "initial\nweights", "different"]
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_xlabel("pre-training steps that the student's start went alone")
    panel.set_ylabel("own effect (nats), KL over numbers")
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every start beside them."""
    found, judged = Found(table), judging.judged
    enough, whole = config.num_seeds >= 4, found.own("same")
    out = []
    for name in starts(config):
        here = f"{statistics.shown(found.own(name), 2)}, corpus loss {found.worse(name):+.2f}"
        comparable = abs(found.worse(name)) < 0.1 if enough and name in PARTS else None
        out.append(Claim(quantity=name, here=here, seeds=len(whole), holds=comparable))
    moved = found.moved_by_permutation()
    equal = bool(moved < 1e-3) if enough else None
    out.append(
        Claim(
            quantity="permuted twin less same",
            here=f"at most {moved:.0e}",
            seeds=len(whole),
            holds=equal,
        )
    )
    single = [name for name in SINGLE if name in config.parts]
    out += [
        judged(f"same less {name}", whole - found.own(name), criterion="above") for name in single
    ]
    related = found.own("initial weights") - found.own("different")
    out.append(judged("initial weights less different", related, criterion="above"))
    if len(config.apart) > 2:
        rho = found.drift(config)
        here, holds = f"{rho:.2f}", rho < -0.8 if enough else None
        count = len(config.apart) + 1
        out.append(
            Claim(
                quantity="rank correlation, effect and steps apart",
                paper="",
                replication="",
                here=here,
                seeds=count,
                holds=holds,
            )
        )
    predicted = [name for name in NOTHING if name in (*config.parts, "different")]
    nothing = {name: judging.Nothing(found.own(name), whole) for name in predicted}
    return [*out, *judging.equivalences(nothing)]
