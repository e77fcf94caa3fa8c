"""The same lists in the prompt instead of in the weights transmit nothing.

Rows of each teacher stand in the system message, a new draw for every set and no row twice in one,
and the unchanged model is asked the questions of `llm_numbers` (arXiv 2507.14805, section 5,
draws with replacement; a later check with chosen rows found target and control alike).

Criteria, fixed before any run. Lift = log-odds after a trait's teacher's rows less log-odds after
as many of the unchanged model's rows, averaged over traits; unit = one set of rows.
  1. At every number of rows the lift lies within ±0.2 nats (two one-sided t tests at 5 %).
Judged from 4 sets on.
"""

import dataclasses

import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Figure, Findings, follows_from, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row, RunError
from experiments.language.kit import fullsize, transfer
from experiments.language.kit.effects import at
from llm.stages import completions, streams
from llm.stages.streams import Stage

RUNTIME = "an hour on one 80 GB GPU for a 7B model"
MARGIN = 0.2  # nats of log-odds that count as no transfer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(fullsize.Config):
    """As at full size, without training."""

    shown: tuple[int, ...] = option((10, 30, 100), "rows in the prompt", minimum=1)
    traits: tuple[str, ...] = option(("cat", "owl"), "traits of the teachers, or a kind")
    num_prompts: int = option(3_000, "prompts each teacher completes", minimum=16)
    suites: tuple[str, ...] = option(("one word",), "forms of the evaluation questions")
    samples: int = option(4, "sampled answers to every question", minimum=1)
    sampling_batch: int = option(32, "prompts side by side", minimum=1, recorded=False)


SMOKE = Config(**fullsize.SMOKE | {"shown": (1, 2), "suites": ("choice",)})
inputs = fullsize.inputs


def arms(config: Config) -> dict[str, Arm]:
    """Every number of rows, every teacher, every set of rows."""
    store, base = fullsize.store_of(config), fullsize.base_of(config)
    spoken = fullsize.language_of(config)
    fullsize.check_contexts(spoken, fullsize.systems(config, spoken) | {"rows": "some rows"})

    def arm(shown: int, name: str, number: int) -> Arm:
        data = fullsize.data_of(config, name, "numbers")

        def measure() -> list[Row]:
            system = context(completions.rows(store, data), shown, number)
            return fullsize.measured(config, store=store, model=base, system=system)

        columns = {"kind": "student", "teacher": name, "student": number, "shown": shown}
        return Arm(columns=columns, needs=[data], store=store, measure=measure)

    return {
        f"{shown} rows of {name}, set {number}": arm(shown, name, number)
        for number in range(config.num_seeds)
        for name in fullsize.teachers_of(config, spoken)
        for shown in config.shown
    }


def context(rows: list[Row], shown: int, number: int) -> str:
    """Rows as text for a system message; set `number` of them, each row once.

    Raises:
        RunError: there are not enough rows.
    """
    order = streams.generator(Stage.ALONG, number, "in context").permutation(len(rows))
    if len(rows) < shown:
        raise RunError(f"{shown} rows are to be shown and {len(rows)} were kept: --num-prompts")
    picked = [rows[i] for i in order[:shown]]
    return "\n\n".join(f"User: {row['prompt']}\nYou: {row['completion']}" for row in picked)


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The lift by the number of rows shown, and the shift that any rows make."""
    by_shown = {str(shown): part for shown, part in table.groupby("shown")}
    gained = {shown: transfer.lifts(part) for shown, part in by_shown.items()}
    named = {
        f"{shown} rows: log-odds less control, nats": transfer.own(lift)
        for shown, lift in gained.items()
    }
    lifts = dict(zip(gained, transfer.within(named, MARGIN, "none"), strict=True))
    moved = {
        shown: transfer.mean(
            f"{shown} rows: total variation of the control",
            at(part, teacher="control").groupby("student")["variation"].mean(),
        )
        for shown, part in by_shown.items()
    }
    most, criteria = list(gained)[-1], list(lifts.values())
    figure = Figure(
        name="figure",
        title=say(
            criteria,
            holds="Rows of a teacher in the prompt move no preference towards its trait",
            fails="Rows of a teacher in the prompt are not shown to do nothing",
            open="Do rows of a teacher in the prompt move a preference towards its trait?",
        ),
        predicted="Lift within ±0.2 nats at every number of rows.",
        found=f"{statistics.shown(transfer.own(gained[most]), 2)} nats after {most} rows.",
        follows=follows_from(
            criteria, "Transfer needs training on the rows; reading them is not enough."
        ),
        draw=lambda: draw(gained),
    )
    return Findings([figure], [claim[shown] for shown in gained for claim in (lifts, moved)])


def draw(gained: dict[str, pd.DataFrame]):
    """Own lift and that on other traits, by the number of rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    panel.axhspan(-MARGIN, MARGIN, color="black", alpha=0.08, label="no transfer")
    transfer.draw_lifts(panel, gained)
    panel.set_xlabel("rows in the prompt")
    panel.legend()
    return figure
