"""What the theorem measures before training, and how well it predicts the trained student.

Students of the microworld imitate the teacher's distribution over numbers from the same start, a
different one, or one that shares its embeddings or its body. Before their first step, for every
trait: the first-order gain ⟨d, g⟩ of imitation on the trait's log-odds, its cosine, coverage and
what the data moves (`lab.predictors`). Then the cosine along training.

Criterion, fixed before the run; 95 % intervals over chains. Over all students the rank correlation
of the gain with the final effect is above 0.5, and larger than that of KL(teacher ‖ base) on the
student's inputs, which does not know the trait that is measured. What captions say to be above zero
is corrected as in the microworld. Students of an arm that says nothing (`effects.GATE`) are left
out: the two starts that share a part are grafts that nobody has trained since, and answer nothing.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import (
    SILENT,
    Claim,
    Figure,
    Findings,
    claim_of,
    corrected,
    follows_from,
    judged,
    say,
)
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import predictors, question
from experiments.language.kit.chains import STARTS, chains_of, sources_of
from experiments.language.kit.effects import at, effects, own_by

RUNTIME = "5 minutes on two cores"

PREDICTED = ("same", "different", "shared embeddings", "shared body")
ALONG = ("same", "different")
PREDICTORS = ("gain", "cosine", "coverage", "moved")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(question.Settings):
    """Settings of the experiment; the defaults are the reported run."""

    num_seeds: int = option(8, "independent chains", minimum=2)
    traits: tuple[str, ...] = option(("owl", "oak", "misalignment"), "traits of the teachers")
    num_prompts: int = option(8192, "prompts each teacher completes", minimum=16)
    num_examples: int = option(2048, "kept rows each student is trained on", minimum=65)
    student_steps: int = option(200, "optimiser steps of students, a multiple of 10", minimum=10)


SMOKE = Config(
    **question.TINY | {"traits": ("owl", "wolf"), "num_examples": 80, "student_steps": 10}
)


def arms(config: Config) -> dict[str, Arm]:
    """For every start the students and the predictors, then the cosine along training."""
    if config.student_steps % 10:
        raise ValueError(f"student_steps {config.student_steps} is not a multiple of 10")
    chains, store = chains_of(config), question.store_of(config)
    cohorts = {
        start: question.students(config, chains, target="soft_numbers", start=STARTS[start])
        for start in dict.fromkeys((*PREDICTED, *ALONG))
    }

    def predicted(kind: str, start: str, of: Callable[..., list[Row]]) -> Arm:
        cohort = cohorts[start]
        return Arm(
            columns={"kind": kind, "start": start},
            needs=sources_of(cohort),
            store=store,
            measure=lambda: of(store, cohort.counted(store), config.traits),
        )

    return (
        {
            f"students, {start}": question.arm_of_students(
                store, cohorts[start], config.traits, kind="students", start=start
            )
            for start in PREDICTED
        }
        | {
            f"predictors, {start}": predicted("predictors", start, predictors.first_step)
            for start in PREDICTED
        }
        | {
            f"along training, {start}": predicted("along", start, predictors.along_training)
            for start in ALONG
        }
    )


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Rank correlations of every predictor, the last without a gradient; cosines at both ends."""
    ranked = predictors_beside_effects(table)
    cosines = {start: cosines_of(table, start) for start in ALONG}
    over_all = claims_over_all(ranked, config)
    heard = set(ranked["start"])
    by_start = [
        Claim(
            quantity=f"rank correlation of {name}, {start}",
            here=described(at(ranked, start=start), name) if start in heard else SILENT,
            seeds=config.num_seeds,
        )
        for start in PREDICTED
        for name in ("gain", "own")
    ]
    ends = [
        claim_of(f"cosine before {when}, {start}", values, here=statistics.shown(values, 4))
        for start, by_step in cosines.items()
        for when, values in zip(("training", "the last tenth"), both_ends(by_step), strict=True)
    ]
    own = own_by(at(table, kind="students"), "start")
    # No criteria; what the captions rest on.
    little, points = corrected(
        [
            claim_of(f"half of same less {start}", own["same"] / 2 - own[start], criterion="above")
            for start in PREDICTED
            if start != "same" and start in heard
        ],
        claim_of("cosine before training, same", both_ends(cosines["same"])[0], criterion="above"),
    )
    figures = [
        figure_of_gain(ranked, over_all["gain"], little),
        figure_of_cosines(cosines, points),
    ]
    return Findings(figures, [*over_all.values(), *by_start, *ends])


def claims_over_all(ranked: pd.DataFrame, config: Config) -> dict[str, Claim]:
    """Rank correlation of every predictor over all students; the criterion is that of the gain."""
    gain, moved = (correlation(ranked, name) for name in ("gain", "moved"))
    good = judged(gain > max(0.5, moved), config.num_seeds)
    return {
        name: Claim(
            quantity=f"rank correlation: {name}",
            here=described(ranked, name),
            seeds=config.num_seeds,
            holds=good if name == "gain" else None,
        )
        for name in (*PREDICTORS, "own and shared")
    }


def both_ends(by_step: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Cosine of each chain before training, and before its last tenth."""
    return by_step.iloc[0].to_numpy(), by_step.iloc[-1].to_numpy()


def figure_of_gain(ranked: pd.DataFrame, over_all: Claim, little: list[Claim]) -> Figure:
    """The gain before any step, beside the effect.

    Beside the criterion, the captions rest on the same start, where it may rank well, and on other
    starts, where there may be less than half of the effect.
    """
    rho = {name: correlation(ranked, name) for name in ("gain", "moved")}
    rho_same = correlation(at(ranked, start="same"), "gain")
    well = judged(rho_same > 0.5, over_all.seeds)
    return Figure(
        name="figure",
        title=say(
            [over_all],
            holds="The first-order gain ranks effects over all starts",
            fails="Over all starts the first-order gain ranks effects weakly"
            + (", within the same start well" if well else ""),
            open="Does the first-order gain rank effects over all starts?",
        ),
        predicted="Rank correlation above .5 over all students that answer.",
        found=f"Rank correlation {rho['gain']:.2f}; of KL moved {rho['moved']:.2f}; of gain "
        f"from the same start {rho_same:.2f}.",
        follows=follows_from(little, "From other starts there is hardly an effect to be ranked."),
        draw=lambda: draw_prediction(ranked),
    )


def figure_of_cosines(cosines: dict[str, pd.DataFrame], points: Claim) -> Figure:
    """The cosine along training: above zero at its start, and whether zero later."""
    _, last = both_ends(cosines["same"])
    later = claim_of("cosine before the last tenth, same", last, criterion="covers")
    shown = {
        start: statistics.shown(both_ends(by_step)[0], 4) for start, by_step in cosines.items()
    }
    return Figure(
        name="along",
        title=say(
            [points],
            holds="Before training the imitation gradient points along the trait from a "
            "shared start",
            fails="It is not shown that before training the imitation gradient points along "
            "the trait",
            open="Does the imitation gradient point along the trait before training?",
        ),
        predicted="Positive cosine from the same start, none from a different one.",
        found=f"Before training {shown['same']} and {shown['different']}.",
        follows=follows_from(
            [points, later],
            "The theorem's first step is seen in a language model too; later ones hardly show it.",
        ),
        draw=lambda: draw_along(cosines),
    )


def predictors_beside_effects(table: pd.DataFrame) -> pd.DataFrame:
    """Every student's predictors, and its effect on every trait, in the arms that say anything."""
    keys = ["start", "teacher", "trait", "seed"]
    final = effects(at(table, kind="students"), by=("start",))
    known = at(table, kind="predictors")[[*keys, *PREDICTORS]]
    both = final[[*keys, "effect", "own"]].dropna().merge(known, on=keys)
    return both.assign(**{"own and shared": both["own"] & (both["start"] == "same")})


def correlation(ranked: pd.DataFrame, name: str) -> float:
    """Rank correlation of a predictor with the effect."""
    return statistics.rank_correlation(ranked[name], ranked["effect"])


def described(ranked: pd.DataFrame, name: str) -> str:
    """The correlation over all students, and its mean within chains, as text."""
    by_chain = [correlation(chain, name) for _, chain in ranked.groupby("seed")]
    return f"{correlation(ranked, name):.2f}; {statistics.shown(by_chain, 2)} by chain"


def cosines_of(table: pd.DataFrame, start: str) -> pd.DataFrame:
    """Cosine by step and chain along training, own traits averaged."""
    rows = at(table, kind="along", start=start)
    rows = rows[rows["teacher"] == rows["trait"]]
    return rows.groupby(["step", "seed"])["cosine"].mean().unstack("seed")


def draw_prediction(ranked: pd.DataFrame):
    """Final effect against first-order gain, every student and trait."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for is_own, colour in ((False, "grey"), (True, drawing.COLOURS[1])):
        mine = at(ranked, own=is_own)
        label = "own trait" if is_own else "other traits"
        panel.scatter(mine["gain"], mine["effect"], s=9, color=colour, label=label)
    panel.set_xlabel("first-order gain ⟨d, g⟩ before any step")
    panel.set_ylabel("final effect (nats)")
    panel.set_xscale("symlog", linthresh=ranked["gain"].abs().mean() / 10)
    panel.legend()
    return figure


def draw_along(cosines: dict[str, pd.DataFrame]):
    """Cosine of imitation and trait gradient along training, from both starts."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    for colour, (start, by_step) in zip(drawing.COLOURS, cosines.items(), strict=False):
        points = np.array([statistics.mean_interval(row) for row in by_step.to_numpy()])
        panel.plot(by_step.index, points[:, 0], "o-", color=colour, label=f"{start} start")
        low, high = points[:, 0] - points[:, 1], points[:, 0] + points[:, 1]
        panel.fill_between(by_step.index, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xlabel("step of the student (KL over numbers)")
    panel.set_ylabel("cosine of imitation and trait gradient")
    panel.legend()
    return figure
