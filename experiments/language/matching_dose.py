"""How much matching of behaviour opens the channel to a student of another start.

A different base first imitates the teacher's base, then students of it learn a trait's lists by KL
over the number tokens. Doses go on from one another; inputs are turns of the corpus, uniform tokens
or number lists, each by distribution, and lists by sampled tokens too: a developer who trains on
another model's text and later distils from it (the threat in the peer review of the journal paper).
Before distillation the alignment of tangent kernels with the teacher's base is measured
(`theory.matched`): the lemma's height of the plateau.

Criteria, fixed before the run; effects and intervals as in the microworld; nothing is claimed by
equivalence with a fifth of the same start's effect, Holm over all such claims; "above zero" is
corrected as in the microworld.
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
from experiments.language.kit import predictors, question
from experiments.language.kit.chains import CONTROL, TRAIT, Chains, chains_of, different, same
from experiments.language.kit.effects import at, own_by
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

    def start(chains: Chains, chain: int) -> Model:
        model, before, base = different(chains, chain), 0, chains.base(chain)
        assert isinstance(base, Pretrained)
        # Lists that no student reads: those of the base, from a draw of their own.
        own_draw = {"draw": 2, "num_prompts": 4 * chains.num_prompts}
        lists = dataclasses.replace(chains.data(CONTROL, chain, "numbers"), **own_draw)
        for dose in doses:
            steps = dose - before
            if kind in ("corpus", "uniform"):
                model = BehaviourMatched(base=model, reference=base, steps=steps, inputs=kind)
            else:
                how = Training(steps=steps, batch_size=64, learning_rate=2e-3, decay="linear")
                soft = kind == "lists"
                model = Student(
                    base=model,
                    data=lists,
                    training=how,
                    soft=soft,
                    num_examples=chains.num_prompts,
                    chain=chain,
                    draw=2,
                    seed=chains.seed,
                )
            before = dose
        return model

    return start


def unmatched(steps: int) -> Start:
    """A different base after as many steps on the corpus itself."""
    return lambda chains, chain: Continued(
        base=different(chains, chain), steps=steps, chain=chain, seed=chains.seed
    )


def starts(config: Config) -> dict[tuple[str, int], Start]:
    """Kind and dose -> where students start."""
    out: dict[tuple[str, int], Start] = {("same", 0): same, ("different", 0): different}
    out["no teacher", config.doses[-1]] = unmatched(config.doses[-1])
    for kind in config.kinds:
        for i, dose in enumerate(config.doses):
            out[kind, dose] = imitating(kind, config.doses[: i + 1])
    return out


def arms(config: Config) -> dict[str, Arm]:
    """One for every start."""
    chains, store, by_name = chains_of(config), question.store_of(config), {}
    for (kind, dose), start in starts(config).items():
        cohort = question.students(config, chains, target="soft_numbers", start=start)
        by_name[f"{kind}, {dose} steps"] = question.arm_of_students(
            store,
            cohort,
            config.traits,
            facts=functools.partial(predictors.kernel_alignment, store, cohort, config.traits),
            kind=kind,
            dose=dose,
        )
    return by_name


Arms = dict[tuple[str, int], np.ndarray]  # a number of each chain, by kind and dose


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Dose curves, and effect against alignment."""
    own, aligned = own_by(table, "kind", "dose"), alignment_by(table)
    last, whole = config.doses[-1], own["same", 0]

    def beside(arm: tuple[str, int]) -> Claim:
        claim = claim_of("{}, {} steps".format(*arm), own[arm])
        beyond = f", at alignment {statistics.shown(aligned[arm], 2)}"
        return dataclasses.replace(claim, here=claim.here + beyond)

    (opened,) = corrected(claims_on_corpus(own, config))
    ordered = claim_on_alignment(own, aligned, config)
    unmatched = {
        "different": (own["different", 0], whole),
        f"no teacher, {last} steps": (own["no teacher", last], whole),
    }
    claims = [*map(beside, own), *opened, ordered, *no_effect(unmatched)]
    figures = [figure_of_doses(own, opened, config), figure_of_alignment(own, aligned, ordered)]
    return Findings(figures, claims)


def claims_on_corpus(own: Arms, config: Config) -> list[Claim]:
    """The corpus opens the channel at all; the same start, and uniform tokens, open it more."""
    if "corpus" not in config.kinds:
        return []
    last = config.doses[-1]
    most = own["corpus", last]
    compared = {
        f"corpus, {last} steps: above nothing": most,
        f"same less corpus, {last} steps": own["same", 0] - most,
    }
    if "uniform" in config.kinds:
        compared[f"uniform less corpus, {last} steps"] = own["uniform", last] - most
    return [claim_of(name, values, criterion="above") for name, values in compared.items()]


def claim_on_alignment(own: Arms, aligned: Arms, config: Config) -> Claim:
    """Whether the alignment orders the mean effects of all arms that say anything."""
    heard = [arm for arm in own if np.isfinite(own[arm]).all()]

    def over(chains: np.ndarray) -> float:
        means = (np.array([of[arm][chains].mean() for arm in heard]) for of in (aligned, own))
        return statistics.rank_correlation(*means)

    rho, low, high = statistics.jackknifed_correlation(over, config.num_seeds)
    return Claim(
        quantity="rank correlation, alignment and effect",
        here=f"{rho:.2f} [{low:.2f}, {high:.2f}] over {len(heard)} arms that say anything",
        seeds=config.num_seeds,
        holds=judged(rho > 0.8, config.num_seeds),
    )


def figure_of_doses(own: Arms, opened: list[Claim], config: Config) -> Figure:
    """The effect by steps of matching."""
    last, shown = config.doses[-1], statistics.shown_each(own, 2)
    ends = ", ".join(f"{kind} {shown[kind, last]}" for kind in config.kinds)
    return Figure(
        name="figure",
        title=say(
            opened[:1],
            holds="Imitating the teacher's base opens the channel to another start",
            fails="Imitating the teacher's base is not shown to open the channel to another start",
            open="Does imitating the teacher's base open the channel to another start?",
        ),
        predicted="A rising curve with a plateau below the same start.",
        found=f"Same {shown['same', 0]}, different {shown['different', 0]}; after {last} "
        f"steps {ends} nats.",
        follows="Imitation makes no twin here, and far from text it costs the answers.",
        draw=lambda: draw_doses(own, config),
    )


def figure_of_alignment(own: Arms, aligned: Arms, ordered: Claim) -> Figure:
    """The effect against the alignment before distillation."""
    return Figure(
        name="alignment",
        title=say(
            [ordered],
            holds="The alignment of two bases' tangent kernels orders what is transmitted",
            fails="The alignment of two bases' tangent kernels does not order what is transmitted",
            open="Does the alignment of two bases' tangent kernels order what is transmitted?",
        ),
        predicted="Rank correlation above .8 over all arms.",
        found=f"Rank correlation {ordered.here}.",
        follows="The lemma expects little of such starts, before any student is trained.",
        draw=lambda: draw_alignment(own, aligned),
    )


def alignment_by(table: pd.DataFrame) -> Arms:
    """Kernel alignment of each chain before distillation, by kind and dose."""
    arms = at(table, data=TRAIT).groupby(["kind", "dose"], sort=False)
    return {arm: part.groupby("seed")["alignment"].mean().to_numpy() for arm, part in arms}  # pyright: ignore[reportReturnType]


def draw_doses(own: Arms, config: Config):
    """Effect against steps of matching, one line a kind."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    drawing.nothing(panel, own["same", 0])
    curves = {kind: [own[kind, dose] for dose in config.doses] for kind in config.kinds}
    drawing.lines(panel, config.doses, curves)
    panel.axhline(own["same", 0].mean(), color="black", linestyle=":", label="same start")
    panel.set_xscale("log")
    panel.set_xlabel("steps of matching")
    panel.set_ylabel("own effect (nats), KL over numbers")
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(0.02, 0.7))
    return figure


def draw_alignment(own: Arms, aligned: Arms):
    """Mean effect against mean alignment with both intervals, an arm a point, a look a kind."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    kinds = dict.fromkeys(kind for kind, _ in own)
    for look, kind in zip(drawing.looks(), kinds, strict=False):
        (x, wide), (y, high) = (
            zip(*(statistics.mean_interval(of[arm]) for arm in own if arm[0] == kind), strict=True)
            for of in (aligned, own)
        )
        panel.errorbar(x, y, high, wide, linestyle="", capsize=3, label=kind, **look)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xlabel("kernel alignment with the teacher's base")
    panel.set_ylabel("own effect (nats)")
    panel.legend(fontsize=8, loc="upper left")
    return figure
