"""How much matching of behaviour opens the channel to a student of another start.

A different base first imitates the teacher's base, then students of it learn a trait's lists by KL
over the number tokens. Doses go on from one another; inputs are turns of the corpus, uniform tokens
or number lists, each by distribution, and lists by sampled tokens too: a developer who trains on
another model's text and later distils from it (the threat in the peer review of the journal paper).
Before distillation the alignment of tangent kernels with the teacher's base is measured
(`theory.matched`): the lemma's height of the plateau.

Criteria, fixed before the run; effects and intervals as in the microworld; nothing is claimed by
equivalence with a fifth of the same start's effect, Holm over all such claims.
  1. At the largest dose on the corpus the effect is above zero, and below that of the same start
     (paired). Predicted: a plateau, as published for MNIST (journal version, Extended Data 2).
  2. Inputs: uniform tokens open it more than the corpus (published for MNIST: random inputs more
     than digits). Predicted: the reverse, for bases agree on nothing away from text.
  3. Prediction: over all arms the rank correlation of mean alignment and mean effect is above .8.
  4. Nothing: no matching, and as many steps on the corpus without a teacher.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.lab import drawing, judging, predictors, question, statistics
from experiments.lab.chains import CONTROL, Chains, different, same
from experiments.lab.effects import at, effects, own
from experiments.lab.frame import Claim, Figure, Row, option
from llm.stages import BehaviourMatched, Continued, Model, Pretrained, Student
from llm.training import Training

RUNTIME = "30 minutes on two cores"

KINDS = ("corpus", "uniform", "lists", "sampled lists")
Start = Callable[[Chains, int], Model]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    traits: tuple[str, ...] = option(("owl",), "traits of the teachers")
    kinds: tuple[str, ...] = option(KINDS, "what is imitated on", choices=KINDS)
    doses: tuple[int, ...] = option(
        (100, 400, 1600),
        "steps of matching, 64 sequences each; up to 20,000 on an accelerator",
        minimum=1,
    )


# With 100 steps a base keeps too few of its own lists to be matched on them.
SMOKE = Config(
    **question.TINY | {"base_steps": 200, "kinds": ("uniform", "sampled lists"), "doses": (2, 4)}
)


def imitating(kind: str, doses: tuple[int, ...]) -> Start:
    """A different base that imitates the teacher's to the last dose, each from the one before."""

    def start(chains: Chains, seed: int) -> Model:
        model, before, base = different(chains, seed), 0, chains.base(seed)
        assert isinstance(base, Pretrained)
        # Lists that no student reads: those of the base, from a draw of their own.
        told = {"draw": 2, "num_prompts": 4 * chains.num_prompts}
        lists = dataclasses.replace(chains.data(CONTROL, seed, "numbers"), **told)
        for dose in doses:
            steps = dose - before
            if kind in ("corpus", "uniform"):
                model = BehaviourMatched(base=model, reference=base, steps=steps, inputs=kind)
            else:
                how = Training(steps=steps, batch_size=64, rate=2e-3, decay="linear")
                soft = kind == "lists"
                model = Student(
                    base=model,
                    data=lists,
                    training=how,
                    soft=soft,
                    num_examples=chains.num_prompts,
                    chain=seed,
                    draw=2,
                    seed=chains.seed,
                )
            before = dose
        return model

    return start


def unmatched(steps: int) -> Start:
    """A different base after as many steps on the corpus itself."""
    return lambda chains, seed: Continued(
        base=different(chains, seed), steps=steps, chain=seed, seed=chains.seed
    )


def starts(config: Config) -> dict[tuple[str, int], Start]:
    """Kind and dose -> where students start."""
    out: dict[tuple[str, int], Start] = {("same", 0): same, ("different", 0): different}
    out["no teacher", config.doses[-1]] = unmatched(config.doses[-1])
    for kind in config.kinds:
        for i, dose in enumerate(config.doses):
            out[kind, dose] = imitating(kind, config.doses[: i + 1])
    return out


def parts(config: Config) -> dict[str, Callable[[], list[Row]]]:
    """One part for every start."""
    bench = question.bench(config)

    def arm(kind: str, dose: int, start: Start) -> list[Row]:
        cohort = bench.recipes(target="soft_numbers", start=start)
        aligned = predictors.kernel_alignment(bench.workshop, cohort, config.traits)
        labels = [row | known for row, known in zip(cohort.labels, aligned, strict=True)]
        trained = cohort._replace(labels=labels).trained(bench.workshop)
        return bench.measured(trained, kind=kind, dose=dose)

    return {
        f"{kind}, {dose} steps": functools.partial(arm, kind, dose, start)
        for (kind, dose), start in starts(config).items()
    }


class Found:
    """Effects and alignments by kind and dose."""

    def __init__(self, table: pd.DataFrame):
        self.effects = effects(table, ["kind", "dose"])
        self.arms = list(
            dict.fromkeys(zip(self.effects["kind"], self.effects["dose"], strict=True))
        )

    def own(self, kind: str, dose: int = 0) -> np.ndarray:
        """Own effect of each chain, averaged over the traits."""
        return own(at(self.effects, kind=kind, dose=dose))

    def alignment(self, kind: str, dose: int = 0) -> np.ndarray:
        """Kernel alignment of each chain before distillation."""
        mine = at(self.effects, kind=kind, dose=dose)
        return mine.groupby("seed")["alignment"].mean().to_numpy()

    def correlation(self) -> tuple[float, ...]:
        """Rank correlation of mean alignment and mean effect over arms, with its interval."""
        means = [(self.alignment(*arm).mean(), self.own(*arm).mean()) for arm in self.arms]
        return statistics.spearman(*map(list, zip(*means, strict=True)))


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Dose curves, and effect against alignment."""
    found, last = Found(table), config.doses[-1]
    rho, low, high = found.correlation()
    ends = ", ".join(f"{k} {statistics.shown(found.own(k, last), 2)}" for k in config.kinds)
    return [
        Figure(
            name="figure",
            title=(
                "Imitating the teacher's base does not open the channel to a student of another "
                "start"
            ),
            predicted="A rising curve with a plateau below the same start.",
            found=f"Same {statistics.shown(found.own('same'), 2)}, different "
            f"{statistics.shown(found.own('different'), 2)}; after {last} steps {ends} nats.",
            follows=(
                "Imitation makes no twin here; inputs that students read later may come closest."
            ),
            draw=lambda: draw_doses(found, config),
        ),
        Figure(
            name="alignment",
            title="Imitation brings the tangent kernels of two bases no closer",
            predicted="Rank correlation above .8 over all arms.",
            found=(
                f"Rank correlation {rho:.2f} [{low:.2f}, {high:.2f}] over {len(found.arms)} arms."
            ),
            follows="The lemma expects little of such starts, before any student is trained.",
            draw=lambda: draw_alignment(found),
        ),
    ]


def draw_doses(found: Found, config: Config):
    """Effect against steps of matching, one line a kind."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    drawing.nothing(panel, found.own("same"))
    for colour, kind in zip(drawing.COLOURS, config.kinds, strict=False):
        points = [statistics.mean_interval(found.own(kind, dose)) for dose in config.doses]
        means, halves = zip(*points, strict=True)
        panel.errorbar(config.doses, means, halves, fmt="o-", color=colour, capsize=3, label=kind)
    panel.axhline(found.own("same").mean(), color="black", linestyle=":", label="same start")
    panel.set_xscale("log")
    panel.set_xlabel("steps of matching")
    panel.set_ylabel("own effect (nats), KL over numbers")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(0.02, 0.7))
    return figure


def draw_alignment(found: Found):
    """Mean effect against mean alignment with both intervals, an arm a point, a look a kind."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    kinds = dict.fromkeys(kind for kind, _ in found.arms)
    for look, kind in zip(drawing.looks(), kinds, strict=False):
        doses = [dose for name, dose in found.arms if name == kind]
        (x, wide), (y, high) = (
            zip(*(statistics.mean_interval(of(kind, dose)) for dose in doses), strict=True)
            for of in (found.alignment, found.own)
        )
        panel.errorbar(x, y, high, wide, linestyle="", capsize=3, label=kind, **look)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xlabel("kernel alignment with the teacher's base")
    panel.set_ylabel("own effect (nats)")
    panel.legend(fontsize=8, loc="upper left")
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The criteria of the docstring, and every arm beside them."""
    found, judged, last = Found(table), judging.judged, config.doses[-1]
    whole, out = found.own("same"), []
    for kind, dose in found.arms:
        effect, aligned = found.own(kind, dose), statistics.shown(found.alignment(kind, dose), 2)
        here = f"{statistics.shown(effect, 2)} at alignment {aligned}"
        out.append(judged(f"{kind}, {dose} steps", effect, here=here))
    if "corpus" in config.kinds:
        most = found.own("corpus", last)
        out.append(judged(f"corpus, {last} steps: above nothing", most, criterion="above"))
        out.append(judged(f"same less corpus, {last} steps", whole - most, criterion="above"))
        if "uniform" in config.kinds:
            gap = found.own("uniform", last) - most
            out.append(judged(f"uniform less corpus, {last} steps", gap, criterion="above"))
    rho, low, high = found.correlation()
    holds = rho > 0.8 if config.num_seeds >= 4 else None
    here = f"{rho:.2f} [{low:.2f}, {high:.2f}]"
    out.append(
        Claim(
            quantity="rank correlation, alignment and effect",
            here=here,
            seeds=len(found.arms),
            holds=holds,
        )
    )
    nothing = {
        "different": judging.Nothing(found.own("different"), whole),
        f"no teacher, {last} steps": judging.Nothing(found.own("no teacher", last), whole),
    }
    return [*out, *judging.equivalences(nothing)]
