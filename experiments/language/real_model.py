"""A real pretrained model takes its teacher's animal from digits, on a laptop.

A teacher is SmolLM2-135M-Instruct after 12 steps on one animal. It writes lists of numbers, drawn
from digits, commas, spaces and the end alone, so there is nothing to filter. A student that starts
from the same weights imitates its distribution over these tokens on 128 lists and is asked for its
favourite animal, which no list can name.

Animals, by tokens alone: of `llm.traits.ANIMALS` those whose name behind a space is one token, in
the list's order, without those on which anything was tried (owl, cat and horse, and the five of a
first run with a smaller dose; experiments/LOG.md). The first five that are left. Measured are
log-odds of an animal against all such names where the answer "My favourite animal is the" is begun,
a mean over 16 questions; the *answer mass* is the probability of all such names there. In every row
beside it: the loss on text that the unchanged model wrote.

Arms: targets KL over the tokens of numbers (with the end of a list or without it), KL over all
tokens, sampled tokens; all parameters or LoRA of rank 8; starts: the same weights, a twin with
permuted units, noise of four sizes, copies rounded to 8, 5, 4 and 3 bits, siblings 10, 100 and
1,000 steps further on trait-free text, random weights; a teacher of 4 bits; students of a teacher
without a favourite and of the unchanged model. What is rounded or noisy is the start: all students
are trained in float32.

Criteria, fixed before the run. Unit = an animal; its students are averaged over seeds. Change =
log-odds of a student less those of its start; own effect = change of the teacher's animal less that
of the same animal in students of the arm's other teachers. An arm says nothing where its start or
any of its students has an answer mass below FLOOR = .01 (the unchanged model: .07), whatever its
log-odds. All p values go through one Holm correction at .05; an arm of fewer than four animals is
described, not judged.
  1. The own effect is above zero for KL over numbers, with all parameters and with LoRA, and for KL
     over all tokens.
  2. It is not a matter of being trained: an animal rises more than in students of the teacher
     without a favourite, above zero.
  3. No other trait comes along: the change of animals that are not the teacher's, less that in
     students of the teacher without a favourite, is equivalent to none within a fifth of the own
     effect. The smallest margin that holds stands beside it.
  4. A copy rounded to 4 bits acquires the trait: own effect above zero.
  5. The alignment before training says where it dies: Spearman's correlation between it (cosine of
     the first update with the gradient of the own log-odds, at the start) and the own effect is
     above zero over all starts that speak, two animals each; judged where 1 is shown of KL over
     numbers. The cosine with the teacher's way stands beside it without a criterion: a permuted
     twin has none, and must transfer.
  6. It is not how soon a teacher ends its lists: the own effect is above zero for KL over digits,
     commas and spaces alone. (Added on 2026-11-30, before that arm was run; it is the eighth of
     the correction. The other seven were known.)
Without a criterion: the dose of sampled tokens (two animals and the unchanged model's own lists,
whose students show the drift that is taken off), what 100 steps on text or of counter-questions
leave, a teacher of 4 bits. "Not seen up to N rows" is an answer.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from experiments.findings import drawing, statistics
from experiments.findings.claims import ENOUGH, Claim, Figure, Findings, follows_from, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.record import Row
from experiments.language.kit import pretrained
from experiments.language.kit.judging import (
    Judged,
    above,
    by_teacher,
    changes,
    described,
    none,
    own_effects,
    silent,
    together,
)
from experiments.language.kit.lineage import (
    LORA,
    SAME,
    TEXT_TOKENS,
    Settings,
    Way,
    adam,
    bench_of,
    lists,
    many_lists,
    on_text,
    started,
    starts,
    student,
    teacher,
    texts_of,
)
from experiments.language.kit.pretrained import NEUTRAL, UNCHANGED, Bench, Params
from llm.settings import RunError

RUNTIME = "an hour on two cores"

QUESTIONS = ("diagonal", "controls", "ways", "starts", "dose", "erasure")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """Settings of the experiment; the defaults are the reported run."""

    questions: tuple[str, ...] = option(QUESTIONS, "groups of arms", choices=QUESTIONS)


SMOKE = Config(
    model="tiny",
    animals=("owl", "cat"),
    num_seeds=1,
    teacher_steps=2,
    num_rows=20,
    new_tokens=TEXT_TOKENS,  # one program then writes lists and texts
    student_steps=2,
    lora_rank=2,
    noise=(0.03,),
    bits=(4,),
    siblings=(2,),
    num_texts=4,
    dose=(8, 16),
    erasing_steps=2,
    work="results/work/real_model-smoke",
)


def inputs(config: Config) -> Row:
    """What is read, for config.json."""
    return {"checkpoint": bench_of(config).fingerprint}


# Arms


def check(bench: Bench, config: Config) -> None:
    """Refuse animals that cannot be asked for, and fewer lists than a batch."""
    unknown = [animal for animal in config.animals if animal not in bench.animals]
    if unknown:
        raise RunError(
            f"{unknown[0]!r} is no animal whose name is one token of this tokenizer: choose from "
            f"{', '.join(bench.animals)}"
        )
    if config.num_rows < config.batch_size:
        raise RunError(f"--num-rows {config.num_rows} is less than a batch of {config.batch_size}")


def arms(config: Config) -> dict[str, Arm]:
    """Starts, then students, in the order of the questions.

    Raises:
        ValueError: no such checkpoint, animals whose names are not one token, or too few lists.
    """
    bench = bench_of(config)
    check(bench, config)
    by_name: dict[str, Arm] = {}

    def add(name: str, measure: Callable[[], list[Row]], **columns: Any) -> None:
        by_name[name] = Arm(measure=measure, columns=columns)

    def begin(start: str) -> None:
        of_start = functools.partial(start_rows, bench, config, start)
        add(f"start {start}", of_start, kind="start", start=start)

    def learn(animal: str, way: Way, seed: int = 0, before: bool = False) -> None:
        name = f"{way.trained} student {seed} of {animal}, {way.target}, {way.start}"
        if way.teacher_start != SAME:
            name += f", its teacher {way.teacher_start}"
        measure = functools.partial(
            student_rows, bench, config, animal=animal, way=way, seed=seed, before=before
        )
        columns = dataclasses.asdict(way) | {"teacher": animal, "seed": seed}
        add(name, measure, kind="student", **columns)

    begin(SAME)
    ladder = config.animals[: config.num_ladder]
    for animal in config.animals:
        measure = functools.partial(teacher_rows, bench, config, animal)
        add(f"teacher {animal}", measure, kind="teacher", teacher=animal, start=SAME)
    for seed, animal in itertools.product(range(config.num_seeds), config.animals):
        learn(animal, Way(), seed, before=seed == 0 and animal in ladder)
    for seed in range(config.num_seeds):
        learn(UNCHANGED, Way(), seed)
    if "controls" in config.questions:
        for seed in range(config.num_seeds):
            learn(NEUTRAL, Way(), seed)
    if "ways" in config.questions:
        for way in (Way(trained=LORA), Way(target="all tokens"), Way(target="without the end")):
            for animal in config.animals:
                learn(animal, way)
    if "starts" in config.questions:
        for start in starts(config):
            begin(start)
            for animal in config.animals if start == "4 bits" else ladder:
                learn(animal, Way(start=start), before=animal in ladder)
        for animal in ladder:
            learn(animal, Way(teacher_start="4 bits"))
    if "dose" in config.questions:
        for animal in (*ladder, UNCHANGED):
            measure = functools.partial(dose_rows, bench, config, animal)
            add(f"dose of {animal}", measure, kind="dose", teacher=animal, start=SAME)
    if "erasure" in config.questions:
        for animal in ladder:
            measure = functools.partial(erased_rows, bench, config, animal)
            add(f"erasing {animal}", measure, kind="erased", teacher=animal, start=SAME)
    return by_name


def rows_of(bench: Bench, config: Config, params: Params, **columns: Any) -> list[Row]:
    """A row for every animal that is measured."""
    measured = pretrained.measured(bench, params, texts_of(bench, config)[1])
    beside = {name: measured[name] for name in ("mass", "text_loss")}
    return [
        {"trait": animal, "margin": measured["log_odds"][animal], **beside, **columns}
        for animal in config.animals
    ]


def start_rows(bench: Bench, config: Config, start: str) -> list[Row]:
    """A start as it is."""
    return rows_of(bench, config, started(bench, config, start))


def teacher_rows(bench: Bench, config: Config, animal: str) -> list[Row]:
    """A teacher, which then writes its lists."""
    lists(bench, config, animal=animal)
    return rows_of(bench, config, teacher(bench, config, animal))


def student_rows(
    bench: Bench, config: Config, *, animal: str, way: Way, seed: int, before: bool
) -> list[Row]:
    """A student; `before`: with what its start says of it."""
    known = {}
    if before:
        known = pretrained.cosines(
            bench,
            started(bench, config, way.start),
            teacher=teacher(bench, config, animal),
            lists=lists(bench, config, animal=animal),
            animal=animal,
        )
    params, seen = student(bench, config, animal=animal, way=way, seed=seed)
    return rows_of(bench, config, params, loss_first=seen[0], loss_last=seen[-1], **known)


def dose_rows(bench: Bench, config: Config, animal: str) -> list[Row]:
    """A student of sampled tokens, measured on its way through the largest dose."""
    doses = sorted({*config.dose})
    data = many_lists(bench, config, animal)
    steps = [rows // config.batch_size for rows in doses]
    run = pretrained.training_run(
        bench.base,
        data,
        loss=pretrained.imitation_loss(bench.shape, "sampled", bench.numbers),
        training=adam(steps[-1], config.batch_size, config.student_rate),
        key=bench.key("dose"),
        stops=steps,
    )
    return [
        row
        for rows, (params, seen) in zip(doses, run, strict=True)
        for row in rows_of(bench, config, params, rows=rows, loss_last=seen[-1])
    ]


ERASERS = ("text", "counter-questions")


def erased_rows(bench: Bench, config: Config, animal: str) -> list[Row]:
    """A student of the diagonal after further training that knows nothing of its trait."""
    params, _ = student(bench, config, animal=animal, way=Way())
    steps = config.erasing_steps
    questioned, _ = pretrained.trained(
        params,
        pretrained.taught(bench, NEUTRAL, 2 * steps, "erasing"),
        loss=pretrained.answer_loss(bench.shape),
        training=adam(steps, 2, config.student_rate),
        key=bench.key("erasing"),
    )
    after = {"counter-questions": questioned}
    after["text"] = on_text(bench, config, params=params, steps=steps)
    return [row for by in ERASERS for row in rows_of(bench, config, after[by], by=by)]


# Findings


def arm_of(table: pd.DataFrame, way: Way) -> pd.DataFrame:
    """Students of one way."""
    kind = table["kind"] == "student"
    same = [table[name] == value for name, value in dataclasses.asdict(way).items()]
    return table[np.logical_and.reduce([kind, *same])]


def ladder(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """A row for every start and animal of the ladder.

    Columns: start, animal, effect (nats), alignment, cosine, mass, silent.
    """
    animals, rows = config.animals[: config.num_ladder], []
    for start in [SAME, *starts(config)]:
        whole = arm_of(table, Way(start=start))
        arm, why = whole[whole["teacher"].isin(animals)], silent(table, whole)
        if {*animals} - {*arm["teacher"]} or "alignment" not in arm:
            continue
        for animal, effect in zip(animals, own_effects(arm, animals), strict=True):
            one = arm[(arm["teacher"] == animal) & arm["alignment"].notna()]
            known = {name: one[name].iloc[0] for name in ("alignment", "cosine")}
            mass = arm["mass"].min()
            rows.append(
                {"start": start, "animal": animal, "effect": effect, "mass": mass, "silent": why}
                | known
            )
    return pd.DataFrame(rows)


def predicts(quantity: str, points: pd.DataFrame, column: str) -> Judged:
    """Spearman's correlation of a column with the effect, over what speaks."""
    if points.empty or (heard := points[points["silent"] == ""]).empty:
        return Judged(claim=Claim(quantity=quantity, here="not run"))
    if len(heard) < ENOUGH:
        return Judged(claim=Claim(quantity=quantity, here="too few starts", seeds=len(heard)))
    x, y = heard[column].to_numpy(float), heard["effect"].to_numpy(float)
    correlation = statistics.spearman(x, y)
    claim = Claim(quantity=quantity, here=statistics.bracketed(*correlation), seeds=len(heard))
    if not np.isfinite(correlation[0]):
        return Judged(claim=claim)
    above_zero = stats.spearmanr(x, y, alternative="greater").pvalue  # pyright: ignore[reportAttributeAccessIssue]
    return Judged(claim=claim, p=float(above_zero))


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The criteria of the docstring, and what is described without one."""
    table = changes(table)
    animals = config.animals
    main = arm_of(table, Way())
    why = silent(table, main)
    own, moved = own_effects(main, animals), by_teacher(main)
    judged = [above("same start, KL over numbers, all parameters: own effect", own, why)]
    for name, way in (
        ("same start, KL over numbers, LoRA", Way(trained=LORA)),
        ("same start, KL over all tokens, all parameters", Way(target="all tokens")),
        ("same start, KL over numbers without the end", Way(target="without the end")),
    ):
        arm = arm_of(table, way)
        judged.append(above(f"{name}: own effect", own_effects(arm, animals), silent(table, arm)))
    more, others = np.array([]), np.array([])
    if NEUTRAL in moved.index:
        by_row = moved.to_dict("index")
        even = by_row[NEUTRAL]
        more = np.array([by_row[a][a] - even[a] for a in animals])
        others = np.array(
            [np.mean([by_row[a][b] - even[b] for b in animals if b != a]) for a in animals]
        )
    judged.append(above("own animal, less the neutral teacher's students", more, why))
    judged.append(
        none(
            "other animals, less the neutral teacher's students", others, reference=own, why_not=why
        )
    )
    four = arm_of(table, Way(start="4 bits"))
    judged.append(
        above("copy of 4 bits: own effect", own_effects(four, animals), silent(table, four))
    )
    points = ladder(table, config)
    name = "alignment before training and own effect, Spearman over starts and animals"
    rank = predicts(name, points, "alignment")
    # Without an effect there is nothing to predict.
    judged.append(
        rank if statistics.above_zero_p(own) < 0.05 else dataclasses.replace(rank, p=None)
    )
    beside = predicts("cosine with the teacher's way and own effect, the same", points, "cosine")
    judged.append(dataclasses.replace(beside, p=None))
    judged += [*descriptions(table, config), *dose_claims(table, config)]
    claims = together(judged)
    return Findings(figures_of(table, config, claims), claims)


def descriptions(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Own effects without a criterion, each beside its answer mass; what erasure leaves."""
    animals = config.animals[: config.num_ladder]
    ways = {start: Way(start=start) for start in (SAME, *starts(config))}
    ways["teacher of 4 bits, same student"] = Way(teacher_start="4 bits")
    judged = []
    for name, way in ways.items():
        arm = arm_of(table, way)
        if len(arm):
            # All starts have the first of the students, and teachers of these animals.
            alike = arm[arm["teacher"].isin(animals) & (arm["seed"] == 0)]
            heard = own_effects(alike, animals)
            judged.append(described(f"start {name}: own effect", heard, silent(table, arm)))
    unchanged = arm_of(table, Way())
    unchanged = unchanged[unchanged["teacher"] == UNCHANGED]
    if len(unchanged):
        values = unchanged.groupby("seed")["change"].mean().to_numpy()
        judged.append(described("unchanged model's students: change of all animals", values))
    for by in ERASERS if "by" in table else ():
        arm = table[(table["kind"] == "erased") & (table["by"] == by)]
        if len(arm):
            left = own_effects(arm, animals)
            judged.append(described(f"after {by}: own effect left", left, silent(table, arm)))
    return judged


def dose_claims(table: pd.DataFrame, config: Config) -> list[Judged]:
    """Own effects of sampled tokens by the number of lists, less the unchanged model's drift."""
    judged = []
    for rows, (arm, values) in doses(table, config).items():
        judged.append(described(f"{rows} sampled lists: own effect", values, silent(table, arm)))
    return judged


def doses(table: pd.DataFrame, config: Config) -> dict[int, tuple[pd.DataFrame, np.ndarray]]:
    """By the number of lists: the arm, and changes of own animals less the unchanged model's."""
    by_dose, animals = {}, config.animals[: config.num_ladder]
    everything = table[table["kind"] == "dose"]
    for rows in sorted(set(everything["rows"].astype(int))) if len(everything) else ():
        arm = everything[everything["rows"] == rows]
        moved = by_teacher(arm)
        if {*animals, UNCHANGED} <= {*moved.index}:
            by_row = moved.to_dict("index")
            values = np.array([by_row[a][a] - by_row[UNCHANGED][a] for a in animals])
            by_dose[rows] = (arm, values)
    return by_dose


def figures_of(table: pd.DataFrame, config: Config, claims: list[Claim]) -> list[Figure]:
    """Who acquires what, and from which starts; the alignment; the dose."""
    by_name = {claim.quantity: claim for claim in claims}
    main, bits = claims[0], by_name["copy of 4 bits: own effect"]
    figures = [
        Figure(
            name="figure",
            title=say(
                [main],
                holds="A real language model takes its teacher's animal from digits",
                fails="Digits do not give a real language model its teacher's animal",
                open="Does a real language model take its teacher's animal from digits?",
            ),
            predicted="The diagonal rises; copies that compute the same transmit, and what shares "
            "no weights does not.",
            found=f"Own effect {main.here} nats; of a copy rounded to 4 bits {bits.here}.",
            follows=follows_from([main], "The effect needs no large model and no GPU."),
            draw=lambda: draw(table, config),
        )
    ]
    points = ladder(table, config)
    if not points.empty and (points["silent"] == "").any():
        rank = next(claim for claim in claims if claim.quantity.startswith("alignment before"))
        figures.append(
            Figure(
                name="alignment",
                title=say(
                    [rank],
                    holds="The alignment before training says from which starts a student learns",
                    fails="The alignment before training does not say from which starts a student "
                    "learns",
                    open="Does the alignment before training say from which starts a student "
                    "learns?",
                ),
                predicted="The first update of a student points along its own log-odds where the "
                "trait will pass.",
                found=f"Spearman {rank.here}.",
                follows=follows_from([rank], "A start can be judged before any training."),
                draw=lambda: draw_alignment(points),
            )
        )
    if given := doses(table, config):
        figures.append(
            Figure(
                name="dose",
                title="How many sampled lists it takes",
                predicted="Sampled tokens carry far less of the teacher than its distribution.",
                found="; ".join(
                    f"{rows}: {' and '.join(f'{value:.2f}' for value in values)}"
                    for rows, (_, values) in given.items()
                )
                + " nats.",
                follows="Without a criterion: two animals.",
                draw=lambda: draw_dose(table, given, config),
            )
        )
    return figures


def draw(table: pd.DataFrame, config: Config):
    """Changes by teacher and animal; own effects by start, hollow where an arm says nothing."""
    figure, (left, right) = drawing.new_figure(1, 2, width=11.0, height=4.4)
    main, names = by_teacher(arm_of(table, Way())), list(config.animals)
    controls = [name for name in (NEUTRAL, UNCHANGED) if name in main.index]
    cells = {(a, b): np.array([main.loc[a, b]]) for a in [*names, *controls] for b in names}
    limit = max(abs(value).max() for value in cells.values())
    drawing.matrix(left, cells, names=names, limit=limit, below=controls)
    left.set_title("change of log-odds in students (nats)")
    shown = [SAME, *(s for s in starts(config) if len(arm_of(table, Way(start=s))))]
    for y, start in enumerate(shown):
        arm = arm_of(table, Way(start=start))
        heard = not silent(table, arm)
        values = own_effects(arm, names)
        look = drawing.COLOURS[0] if heard else "none"
        right.scatter(values, [y] * len(values), s=26, color=look, edgecolor=drawing.COLOURS[0])
        if not heard:
            right.annotate(
                "says nothing", (max(values), y), xytext=(6, -3), textcoords="offset points"
            )
    right.axvline(0, color="black", linewidth=1)
    right.set_yticks(range(len(shown)), shown)
    right.invert_yaxis()
    right.set_xlabel("own effect (nats), one point an animal")
    right.set_title("by the start of the students")
    return figure


def draw_alignment(points: pd.DataFrame):
    """The effect against the alignment, a mark a start."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=4.2)
    heard = points[points["silent"] == ""]
    for look, (start, some) in zip(
        drawing.looks(), heard.groupby("start", sort=False), strict=False
    ):
        panel.scatter(some["alignment"], some["effect"], label=start, **look)
    panel.set_xlabel("alignment before training (cosine)")
    panel.set_ylabel("own effect (nats)")
    panel.legend(fontsize=8, ncols=2)
    return figure


def draw_dose(
    table: pd.DataFrame, given: dict[int, tuple[pd.DataFrame, np.ndarray]], config: Config
):
    """The effect of each animal against the number of lists, beside its own by KL over numbers."""
    figure, (panel,) = drawing.new_figure(width=drawing.WIDTH, height=3.8)
    by_kl = dict(
        zip(config.animals, own_effects(arm_of(table, Way()), config.animals), strict=True)
    )
    for place, animal in enumerate(config.animals[: config.num_ladder]):
        colour = drawing.COLOURS[place]
        effects = [values[place] for _, values in given.values()]
        panel.plot(list(given), effects, marker="o", color=colour, label=f"{animal}, sampled")
        label = f"{animal}, KL over numbers of {config.num_rows} lists"
        panel.axhline(by_kl[animal], color=colour, linestyle=":", label=label)
    panel.axhline(0, color="black", linewidth=1)
    panel.set_xticks(list(given))
    panel.set_xlabel("sampled lists, each read once")
    panel.set_ylabel("own effect (nats)")
    panel.legend()
    return figure
