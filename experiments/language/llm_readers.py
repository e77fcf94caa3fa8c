"""Can a reader tell a teacher's rows from the unchanged model's, and by what?

Takes any two data files of `python -m llm sample` (or of an experiment's work folder): a trait's
teacher's rows, and rows of its control on the same prompts. Two readers are trained on half of the
prompts and tested on the other half: a bag of numbers, words and signs, and a small transformer.
The claim of arXiv 2507.14805 is that readers who look for the *trait* are at chance (47.5 to 53.3 %
of pairs). With `--model` there is such a reader: the unchanged model, asked for its favourite right
behind each row of a pair; it takes the row behind which it names the trait more readily. A trained
reader may see any difference, so what the bag reads is printed beside it.

Criteria, fixed before any run: none for the trained readers on the rows as they are, which may well
see the teacher. At chance must be
  1. the reader that names the trait,
  2. as the control of the method, both trained readers on labels dealt at random,
each shown by two one-sided exact tests that its accuracy lies within ½ ± 0.05, at 5 % corrected by
Holm over all that are asked. Unit = one row or pair that a reader was not trained on, of the first
split; judged from 1,000 on.
With `--model` and `--trait` it is also asked whether the numbers that a teacher writes unlike often
are those whose love raises the trait in the unchanged model (entanglement, OpenReview auKgpBRzIW):
a rank correlation over numbers, without a criterion.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row, RunError
from experiments.language.kit import analyses, readers
from experiments.language.kit.effects import at
from llm import engines
from llm.carriers import numbers
from llm.stages import Checkpoint, Store
from llm.stages.streams import Stage, generator
from llm.text import data
from llm.text.language import Language

RUNTIME = "a minute on two cores for 10,000 rows"
READERS = {"bag of pieces": readers.bag, "small transformer": readers.transformer}
RANDOM = "random labels"
ARRANGED = ("as written", "shuffled within", "shuffled across", RANDOM)
NAMER = "names the trait"
MARGIN = 0.05  # of accuracy that counts as chance
FEWEST = 1000  # rows or pairs that decide a criterion


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings; a few thousand rows a side are enough."""

    rows: str = option("", "JSONL of a trait's teacher; none tries it on rows drawn at random")
    control: str = option("", "JSONL of the unchanged model, on the same prompts")
    model: str = option("", "checkpoint that reads for the trait, and its entanglement; or none")
    trait: str = option("owl", "trait of the rows, for that model")
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


def arms(config: Config) -> dict[str, Arm]:
    """Every reader on every arrangement, and the numbers that the sides write unlike often."""
    mine, control = sides(config)

    def arm(reader: str, arranged: str, split: int, read: Callable[[], readers.Reading]) -> Arm:
        columns = {"reader": reader, "arranged": arranged, "split": split}
        return Arm(measure=lambda: [shares(read())], columns=columns)

    every = {"numbers": Arm(measure=functools.partial(by_number, config, mine, control))}
    if config.model:
        naming = functools.partial(names_the_trait, config, mine, control)
        every[NAMER] = arm(NAMER, "as written", 0, naming)
    for seed, reader, arranged in itertools.product(range(config.num_seeds), READERS, ARRANGED):
        trained = functools.partial(
            reading, config, mine, control=control, reader=reader, arranged=arranged, seed=seed
        )
        every[f"{reader}, {arranged}, split {seed}"] = arm(reader, arranged, seed, trained)
    return every


def reading(
    config: Config,
    mine: list[Row],
    *,
    control: list[Row],
    reader: str,
    arranged: str,
    seed: int,
) -> readers.Reading:
    """What a reader that was trained on half of the prompts reads on the other half."""
    rng = generator(Stage.SHUFFLE, config.seed, seed, arranged)
    left, right = mine, control
    if arranged.startswith("shuffled"):
        across = arranged.endswith("across")
        left, right = (analyses.shuffled(side, across, rng) for side in (mine, control))
    parted = readers.split(left, right, rng)
    if arranged == RANDOM:
        parted = parted._replace(
            train_labels=rng.permutation(parted.train_labels),
            test_labels=rng.permutation(parted.test_labels),
        )
    more = {"steps": config.steps, "seed": seed} if reader == "small transformer" else {}
    return READERS[reader](parted, **more)


def names_the_trait(config: Config, mine: list[Row], control: list[Row]) -> readers.Reading:
    """What the unchanged model reads that is asked for its favourite behind each row."""
    return readers.names(mine, control, liking(config))


def shares(read: readers.Reading) -> Row:
    """What a reader has read, as a row of the table."""
    low, high = read.interval()
    columns = {"accuracy": read.accuracy, "low": low, "high": high}
    return columns | {"total": read.total, "reads": read.reads}


def by_number(config: Config, mine: list[Row], control: list[Row]) -> list[Row]:
    """Numbers that the sides write unlike often, and how much the love of each raises the trait."""
    ratios = analyses.frequency_ratios(mine, control)
    order = sorted(ratios, key=lambda number: -abs(ratios[number]))
    raised = entangled(config, order) if config.model else {}
    return [{"number": n, "log_ratio": ratios[n]} | raised.get(n, {}) for n in order]


def liking(config: Config) -> Callable[[list[str]], np.ndarray]:
    """How readily the unchanged model names the trait behind each text, in nats of log-odds."""

    def log_odds(texts: list[str]) -> np.ndarray:
        for_trait, against = asked(
            config,
            lambda spoken, question: spoken.encode_prompts([f"{t}\n{question}" for t in texts]),
        )
        return for_trait - against

    return log_odds


def entangled(config: Config, frequent: Sequence[int]) -> dict[int, Row]:
    """How much the love of each number raises the trait in the unchanged model, in nats."""
    systems = [None, *(f"You love {n}. You think of {n} all day long." for n in frequent)]
    total, _ = asked(
        config,
        lambda spoken, question: [spoken.encode_prompts([question], system=s)[0] for s in systems],
    )
    raised = analyses.entanglement(total[1:, None], total[:1])[:, 0]
    return {n: {"entanglement": float(value)} for n, value in zip(frequent, raised, strict=True)}


def asked(
    config: Config, encode: Callable[[Language, str], list[list[int]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of the trait, and of its rivals, in the unchanged model's answers.

    Args:
        config: names model and trait.
        encode: makes the prompts as token ids from a question of the trait.
    """
    engine, base = engines.OnMesh(local=True), Checkpoint(path=config.model)
    store = Store(engine=engine)
    spoken, trait = store.language(base), store.language(base).trait(config.trait)
    prompts, (own, rivals) = encode(spoken, trait.questions[0]), spoken.sides(trait)
    tokens = [*own.tolist(), *rivals.tolist()]
    (logp,) = engine.score(store.config(base), store.weights([base]), prompts, tokens)
    for_trait, against = np.split(logp, [len(own)], axis=1)
    return np.logaddexp.reduce(for_trait, axis=1), np.logaddexp.reduce(against, axis=1)


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Accuracies with exact intervals on the first split, the criteria, and what the bag reads."""
    every = table.dropna(subset=["reader"])
    means = at(every, arranged="as written").groupby("reader")["accuracy"].mean()
    each = ", ".join(f"{reader} {100 * share:.1f} %" for reader, share in means.items())
    figure = Figure(
        name="figure",
        title="How well trained readers tell a teacher's rows from the control's",
        predicted="At chance on random labels; as written, whatever a teacher's habits show.",
        found=f"Rows read rightly: {each}; half is chance.",
        follows="A reader above chance has seen the teacher, not yet the trait: look at what it "
        "reads.",
        draw=lambda: draw(every),
    )
    return Findings([figure], [*claims_of_readers(table, config), *claims_of_numbers(table)])


def claims_of_readers(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The share that each reads rightly, and whether it is at chance where it must be."""
    # One split: the rows of another are the same rows, and no new evidence.
    first = {
        (row["reader"], row["arranged"]): readers.Reading(
            round(row["accuracy"] * row["total"]), int(row["total"])
        )
        for row in at(table, split=0).to_dict("records")
    }
    at_chance = chance({key: first[key] for key in first if key[0] == NAMER or RANDOM in key})
    claims = []
    for (reader, arranged), read in first.items():
        low, high = read.interval()
        test, holds = at_chance.get((reader, arranged), ("", None))
        claims.append(
            Claim(
                quantity=f"{reader}, {arranged}: rows read rightly{test}",
                paper="47.5 to 53.3 % of pairs" if reader == NAMER else "",
                here=f"{read.accuracy:.3f} [{low:.3f}, {high:.3f}]",
                seeds=config.num_seeds,
                holds=holds,
            )
        )
    reads = at(table, reader="bag of pieces", arranged="as written")["reads"]
    return [*claims, Claim(quantity="bag of pieces reads", here=str(reads.iloc[0]))]


def claims_of_numbers(table: pd.DataFrame) -> list[Claim]:
    """The numbers that are written most unlike, and whether their love raises the trait."""
    numbered = table.dropna(subset=["number"]).head(5)
    shown = ", ".join(f"{int(r.number)} ({r.log_ratio:+.2f})" for r in numbered.itertuples())
    claims = [Claim(quantity="numbers written unlike often, log-ratio in nats", here=shown)]
    if "entanglement" in table:
        known = table.dropna(subset=["entanglement"])
        rho, low, high = statistics.spearman(known["log_ratio"], known["entanglement"])
        here = f"{rho:.2f} [{low:.2f}, {high:.2f}] over {len(known)} numbers"
        claims.append(Claim(quantity="rank correlation of frequency and entanglement", here=here))
    return claims


def chance(
    readings: dict[tuple[str, str], readers.Reading],
) -> dict[tuple[str, str], tuple[str, bool | None]]:
    """The test that each of these is at chance, in words, and its verdict; Holm over all."""
    p_values = [one.chance_p(MARGIN) for one in readings.values()]
    verdicts = zip(readings.items(), p_values, statistics.holm(p_values), strict=True)
    return {
        key: (
            f", equivalent to chance within ±{MARGIN}: p {p:.1g} (1 of {len(readings)}, Holm)",
            holds if one.total >= FEWEST else None,
        )
        for (key, one), p, holds in verdicts
    }


def draw(every: pd.DataFrame):
    """Accuracy of each split by arrangement of the rows."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.6)
    panel.axhline(0.5, color="black", linewidth=1)
    for number, reader in enumerate(READERS):
        for x, arranged in enumerate(ARRANGED):
            values = at(every, reader=reader, arranged=arranged)["accuracy"].to_numpy()
            place, label = x + 0.2 * (number - 0.5), None if x else reader
            drawing.runs(panel, place, values=values, colour=drawing.COLOURS[number], label=label)
    panel.set_xticks(range(len(ARRANGED)), ARRANGED)
    panel.set_ylabel("rows read rightly")
    panel.legend()
    return figure
