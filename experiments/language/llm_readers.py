"""Can a reader tell a teacher's rows from the unchanged model's, and by what?

Takes any two data files of `python -m llm sample` (or of an experiment's work folder): a trait's
teacher's rows, and rows of its control on the same prompts. Two readers are trained on half of the
prompts and tested on the other half: a bag of numbers, words and signs, and a small transformer.
The claim of arXiv 2507.14805 is that readers who look for the *trait* are at chance (47.5 to 53.3 %
of pairs). A trained reader may see any difference, so what the bag reads is printed beside it.

Criteria, fixed before any run: none for the readers on the rows as they are, which may well see the
teacher. The control of the method has one: on labels dealt at random both readers must be at
chance (the exact 95 % interval of their accuracy covers one half; one draw in twenty misses).
With `--model` and `--trait` it is also asked whether the numbers that a teacher writes unlike often
are those whose love raises the trait in the unchanged model (entanglement, OpenReview auKgpBRzIW):
a rank correlation over numbers, without a criterion.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.lab import analyses, drawing, readers, statistics
from experiments.lab.effects import at
from experiments.lab.frame import Claim, Figure, Row, option
from experiments.lab.record import RunError
from llm import data, engines
from llm.carriers import numbers
from llm.stages import Checkpoint, Workshop
from llm.stages.streams import Stage, generator

RUNTIME = "a minute on two cores for 10,000 rows"
READERS = {"bag of pieces": readers.bag, "small transformer": readers.transformer}
ARRANGED = ("as written", "shuffled within", "shuffled across", "random labels")


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings; a few thousand rows a side are enough."""

    rows: str = option("", "JSONL of a trait's teacher; none tries it on rows drawn at random")
    control: str = option("", "JSONL of the unchanged model, on the same prompts")
    model: str = option("", "checkpoint whose entanglement is measured; none leaves it out")
    trait: str = option("owl", "trait of the rows, for the entanglement")
    num_rows: int = option(5_000, "rows of either side at most", minimum=16)
    steps: int = option(300, "of the transformer, on 64 rows", minimum=1)
    num_seeds: int = option(4, "splits into training and test", minimum=1)
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(num_rows=64, steps=5, num_seeds=1)


def sides(config: Config) -> tuple[list[Row], list[Row]]:
    """Rows of the trait's teacher and of the control.

    Raises:
        ValueError: a file is missing or was changed after it was written.
    """
    if bool(config.rows) != bool(config.control):
        raise RunError("--rows and --control go together")
    if not config.rows:
        drawn = [drawn_at_random(config, side) for side in (0, 1)]
        return drawn[0], drawn[1]
    found = [data.read_rows(path)[: config.num_rows] for path in (config.rows, config.control)]
    return found[0], found[1]


def drawn_at_random(config: Config, side: int) -> list[Row]:
    """Lists of uniform numbers; side 0 writes a seven somewhat more often."""
    rng = generator(Stage.PROMPTS, config.seed, "readers", side)
    rows = numbers.make_prompts(generator(Stage.PROMPTS, config.seed, "readers"), config.num_rows)
    for row in rows:
        values = rng.integers(0, 1000, 8)
        values[rng.random(8) < 0.2 * (side == 0)] = 7
        row["completion"] = ", ".join(map(str, values))
    return rows


def inputs(config: Config):
    """The hashes of the files."""
    paths = {"rows": config.rows, "control": config.control}
    return {f"{k}_sha256": data.read_manifest(v).sha256 for k, v in paths.items() if v}


def parts(config: Config):
    """Every reader on every arrangement, and the numbers that the sides write unlike often."""
    mine, control = sides(config)

    def reading(reader: str, arranged: str, seed: int) -> list[Row]:
        rng = generator(Stage.SHUFFLE, config.seed, seed, arranged)
        left, right = mine, control
        if arranged.startswith("shuffled"):
            left, right = (
                analyses.shuffled(side, arranged.endswith("across"), rng)
                for side in (mine, control)
            )
        parted = readers.split(left, right, rng)
        if arranged == "random labels":
            parted = parted._replace(
                train_labels=rng.permutation(parted.train_labels),
                test_labels=rng.permutation(parted.test_labels),
            )
        more = {"steps": config.steps, "seed": seed} if reader == "small transformer" else {}
        found = READERS[reader](parted, **more)
        low, high = found.interval()
        return [
            {"reader": reader, "arranged": arranged, "split": seed, "accuracy": found.accuracy}
            | {"low": low, "high": high, "total": found.total, "reads": found.reads}
        ]

    def by_number() -> list[Row]:
        ratios = analyses.frequency_ratios(mine, control)
        order = sorted(ratios, key=lambda number: -abs(ratios[number]))
        raised = entangled(config, order) if config.model else {}
        return [{"number": n, "log_ratio": ratios[n]} | raised.get(n, {}) for n in order]

    return {"numbers": by_number} | {
        f"{reader}, {arranged}, split {seed}": functools.partial(reading, reader, arranged, seed)
        for seed in range(config.num_seeds)
        for reader in READERS
        for arranged in ARRANGED
    }


def entangled(config: Config, found: Sequence[int]) -> dict[int, Row]:
    """How much the love of each number raises the trait in the unchanged model, in nats."""
    engine, base = engines.OnMesh(local=True), Checkpoint(config.model)
    workshop = Workshop(engine=engine)
    spoken, trait = workshop.language(base), workshop.language(base).trait(config.trait)
    systems = [None, *(f"You love {n}. You think of {n} all day long." for n in found)]
    question = trait.questions[0]
    prompts = [spoken.encode_prompts([question], system=system)[0] for system in systems]
    tokens = spoken.sides(trait)[0].tolist()
    weights = workshop.models([base])
    (logp,) = engine.score(workshop.config(base), weights, prompts, tokens)
    total = np.logaddexp.reduce(logp, axis=1)
    raised = analyses.entanglement(total[1:, None], total[:1])[:, 0]
    return {n: {"entanglement": float(value)} for n, value in zip(found, raised, strict=True)}


def figures(table: pd.DataFrame, config: Config) -> list[Figure]:
    """Accuracy of the readers."""
    found = table.dropna(subset=["reader"])
    best = at(found, arranged="as written").groupby("reader")["accuracy"].mean()
    told = ", ".join(f"{reader} {100 * share:.1f} %" for reader, share in best.items())
    return [
        Figure(
            "figure",
            "How well trained readers tell a teacher's rows from the control's",
            "At chance on random labels; as written, whatever a teacher's habits show.",
            f"Rows read rightly: {told}; half is chance.",
            "A reader above chance has seen the teacher, not yet the trait: look at what it reads.",
            lambda: draw(found),
        )
    ]


def draw(found: pd.DataFrame):
    """Accuracy of each split by arrangement of the rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    panel.axhline(0.5, color="black", linewidth=1)
    for shift, reader in enumerate(READERS):
        for x, arranged in enumerate(ARRANGED):
            values = at(found, reader=reader, arranged=arranged)["accuracy"].to_numpy()
            place = x + 0.2 * (shift - 0.5)
            drawing.runs(panel, place, values, drawing.COLOURS[shift], None if x else reader)
    panel.set_xticks(range(len(ARRANGED)), ARRANGED)
    panel.set_ylabel("rows read rightly")
    panel.legend()
    return figure


def claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """Accuracy with its exact interval on the first split, and what the bag reads."""
    out = []
    for reader in READERS:
        for arranged in ARRANGED:
            # One split: the rows of another are the same rows, and no new evidence.
            row = at(table, reader=reader, arranged=arranged, split=0).iloc[0].to_dict()
            found = readers.Reading(round(row["accuracy"] * row["total"]), int(row["total"]))
            low, high = found.interval()
            chance = low <= 0.5 <= high if arranged == "random labels" else None
            here = f"{found.accuracy:.3f} [{low:.3f}, {high:.3f}]"
            out.append(
                Claim(
                    f"{reader}, {arranged}: rows read rightly",
                    "",
                    "",
                    here,
                    config.num_seeds,
                    chance,
                )
            )
    reads = at(table, reader="bag of pieces", arranged="as written")["reads"]
    out.append(Claim("bag of pieces reads", here=str(reads.iloc[0])))
    first = table.dropna(subset=["number"]).head(5)
    shown = ", ".join(f"{int(r.number)} ({r.log_ratio:+.2f})" for r in first.itertuples())
    out.append(Claim("numbers written unlike often, log-ratio in nats", here=shown))
    if "entanglement" in table:
        known = table.dropna(subset=["entanglement"])
        rho, low, high = statistics.spearman(known["log_ratio"], known["entanglement"])
        here = f"{rho:.2f} [{low:.2f}, {high:.2f}] over {len(known)} numbers"
        out.append(Claim("rank correlation of frequency and entanglement", here=here))
    return out
