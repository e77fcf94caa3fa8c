"""What moves the effect: one factor at a time around the official recipe, each with its twin.

The recipe is the official one at a width of 128, whose published accuracy is that of 256 and
which costs a third. Only the sweeps of `students` share one teacher of the most auxiliary logits;
all others have networks of three. Logits that nobody imitates still change the draw of the network
and its training, so every point is held against the recipe on networks of its own number of logits
(column `logits`), and a figure draws that line.

Auxiliary logits, width, depth, learning rate, batch (equal steps and equal epochs), epochs of
teacher and student, initial scale, temperature, loss and labels, optimiser, dropout in teacher and
student, the number of noise images, and what the images are. Every point is trained from the
teacher's start and, as its cross-model twin, from another. Accuracy is that on a sixth of the
training digits that no teacher saw: nothing here looks at the test set.

Predictions, written before the run. Every cross-model twin is at chance. More auxiliary logits
give more, up to the teacher. Published and to be held against each other: student dropout of .35
takes .72 to .21 while teacher dropout is harmless; white noise is the best probe (arXiv
2609.23260) against blurred noise better by a fifth, and any noise of its spectrum as good
(replications). The spectra of `theory.ntk` decide: images whose kernel lets more of the teacher's
displacement arrive within the same time should teach more.

Criteria: twins, no transfer (equivalence to chance within a fifth of the base's gain), Holm over
all points. Accuracy rises with the auxiliary logits, Spearman of the means at least .9. Dropout
.35: student's accuracy below the base's (paired 95 % interval), teacher's within .1 (equivalence).
Blurred against white, Bonferroni over the blurs: better by a fifth, or white
best, or neither. The Gaussian twin of a blur is within .1 of it (equivalence). Spearman of the
arrived share and accuracy over image kinds above .8, or the spectra do not decide.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say, smallest
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, Teachers, distil, setup_of, teach
from mnist_mlp import grid, noise, predictors, starts
from mnist_mlp.grid import ARGMAX, SAMPLED, Grid, Settings
from mnist_mlp.model import Architecture, Params

__all__ = ["inputs"]
RUNTIME = "about 30 minutes on two cores"
BLURS = (0.5, 1.0, 2.0)  # pixels
IMAGES: dict[str, tuple[str, float]] = {
    "Gaussian": ("normal", 1.0),
    "uniform, half as strong": ("uniform", 0.5),
    **{f"blurred {s:g}": ("blurred", s) for s in BLURS},
    **{f"Gaussian, spectrum of blur {s:g}": ("same spectrum", s) for s in BLURS},
    **{f"rank {r}": ("low rank", float(r)) for r in (10, 100)},
    "pixel-shuffled digits": ("pixel-shuffled digits", 1.0),
    "digits": ("digits", 1.0),
    "digits + noise": ("noisy digits", 1.0),
    "other digits": ("other digits", 1.0),
    "photographs": ("photographs", 1.0),
}
COLUMNS = 4  # of the figure
NUM_AUX = 3  # logits of the official recipe
GROUPS = ("students", "epochs", "teachers", "dropout", "images", "shapes", "batches")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """The recipe, and the points of the sweeps."""

    widths: tuple[int, ...] = option((128, 128), "hidden layer widths", minimum=1)
    learning_rate: float = option(3e-4, "Adam step size", minimum=0, maximum=1)
    batch_size: int = option(1024, "images in a batch", minimum=1)
    epoch_images: int = option(60_000, "images in an epoch", minimum=1)
    num_aux: tuple[int, ...] = option(
        (1, 2, 3, 5, 10, 20, 50, 100, 200), "auxiliary logits", minimum=1
    )
    groups: tuple[str, ...] = option(GROUPS, "which sweeps", choices=GROUPS)


SMOKE = Config(**flags.TOY | {"num_aux": (2, 5), "groups": ("images",), "epoch_images": 64})


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed and group, and the recipe itself for every seed."""
    setup = setup_of(config, validation=True)
    return {
        f"seed {seed}, {group}": Arm(
            columns={"seed": seed, "logits": logits_of(config, group)},
            measure=functools.partial(RUN[group], setup, seed),
        )
        for seed in range(config.num_seeds)
        for group in ("base", *config.groups)
    }


def logits_of(config: Config, group: str) -> int:
    """Auxiliary logits of the networks of a group, imitated or not."""
    return max(config.num_aux) if group == "students" else NUM_AUX


Point = tuple[str, str, Settings]  # factor, value, how students are trained


def with_twins(points: list[Point], own: list[Params], other: list[Params]) -> list[Student]:
    """Every point from its teacher's start and from another."""
    return [
        Student({"factor": factor, "value": value, "start": name}, settings, start)
        for factor, value, settings in points
        for name, pool in (("same", own), ("another", other))
        for start in (pool[int(settings.teacher)],)
    ]


def base_of(setup: Setup, seed: int, num_aux: int = NUM_AUX, **changes):
    """Grid, starts and the teacher of the official recipe."""
    shapes = setup.grid(num_aux, changes.pop("student", None), **changes)
    own, other = (setup.draw(shapes, seed, name, shapes.student) for name in ("reference", "other"))
    return shapes, own, other


def run_base(setup: Setup, seed: int) -> list[Row]:
    """The recipe on networks of three auxiliary logits: the base of all groups but `students`."""
    shapes, own, other = base_of(setup, seed)
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own])
    students = with_twins([("base", "", setup.settings())], [own], [other])
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


def run_students(setup: Setup, seed: int) -> list[Row]:
    """What concerns students only: one teacher, one stream of noise, all side by side."""
    shapes, own, other = base_of(setup, seed, logits_of(setup.config, "students"))
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own])
    rate = setup.config.learning_rate
    points: list[Point] = [("base", "", setup.settings())]
    points += [("aux logits", str(m), setup.settings(num_aux=m)) for m in setup.config.num_aux]
    points += [
        ("temperature", f"{t:g}", setup.settings(temperature=t)) for t in (0.5, 2.0, 4.0, 8.0)
    ]
    points += [
        ("loss", "squared error", setup.settings(squared=1.0)),
        ("loss", "sampled labels", setup.settings(label=SAMPLED)),
        ("loss", "argmax labels", setup.settings(label=ARGMAX)),
    ]
    plain = {"adaptive": 0.0, "learning_rate": 1000 * rate}
    slower = plain | {"learning_rate": 100 * rate}
    points += [
        ("optimiser", "SGD", setup.settings(momentum=0.0, **slower)),
        ("optimiser", "SGD x 10", setup.settings(momentum=0.0, **plain)),
        ("optimiser", "momentum x 10", setup.settings(**plain)),
        ("optimiser", "AdamW 1e-2", setup.settings(decay=1e-2)),
        ("optimiser", "L2 1e-4 in Adam", setup.settings(l2=1e-4)),
    ]
    return distil(
        setup, shapes, seed=seed, students=with_twins(points, [own], [other]), teachers=teachers
    )


def run_epochs(setup: Setup, seed: int) -> list[Row]:
    """The students' epochs as doses of one run, the teacher's as teachers side by side."""
    shapes, own, other = base_of(setup, seed)
    doses = [1, 2, 4, 10, 20]  # times fifth parts of the recipe's five
    last = setup.config.epochs
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own])
    students = with_twins([("student epochs", "", setup.settings())], [own], [other])
    rows = distil(
        setup,
        shapes,
        seed=seed,
        students=students,
        teachers=teachers,
        doses=[*doses[:3], last, *doses[3:]],
    )
    rows = [row | {"value": str(row["epochs"])} for row in rows]
    several = [
        teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own], epochs=e)
        for e in doses
    ]
    stack = Teachers(
        *(grid.stacked([grid.pick(t[i], 0) for t in several]) for i in (0, 1)),
        [t.accuracy[0] for t in several],
    )
    points = [("teacher epochs", str(e), setup.settings(teacher=i)) for i, e in enumerate(doses)]
    pools = [own] * len(doses), [other] * len(doses)
    return rows + distil(
        setup, shapes, seed=seed, students=with_twins(points, *pools), teachers=stack
    )


def run_teachers(setup: Setup, seed: int) -> list[Row]:
    """What concerns both: learning rate of both phases, scale of the start."""
    shapes, own, other = base_of(setup, seed)
    rates, scales = (1e-4, 1e-3, 3e-3, 1e-2), (0.5, 2.0, 4.0)
    settings = [setup.settings(learning_rate=r) for r in rates] + [setup.settings()] * len(scales)
    factors = [1.0] * len(rates) + list(scales)
    begin, cross = ([starts.scaled(p, f) for f in factors] for p in (own, other))
    teachers = teach(setup, shapes, seed=seed, settings=settings, starts=begin)
    names = [("learning rate", f"{r:g}") for r in rates] + [
        ("initial scale", f"{s:g}") for s in scales
    ]
    points = [
        (*name, s._replace(teacher=i))
        for i, (name, s) in enumerate(zip(names, settings, strict=True))
    ]
    return distil(
        setup, shapes, seed=seed, students=with_twins(points, begin, cross), teachers=teachers
    )


def run_dropout(setup: Setup, seed: int) -> list[Row]:
    """Units dropped in the teacher, in the student."""
    shapes, own, other = base_of(setup, seed, dropout=True)
    teachers = teach(
        setup,
        shapes,
        seed=seed,
        settings=[setup.settings(), setup.settings(dropout=0.35)],
        starts=[own] * 2,
    )
    points = [
        ("dropout of the student", f"{r:g}", setup.settings(dropout=r)) for r in (0.1, 0.35, 0.5)
    ]
    points += [("dropout of the teacher", "0.35", setup.settings(teacher=1))]
    students = with_twins(points, [own] * 2, [other] * 2)
    return distil(setup, shapes, seed=seed, students=students, teachers=teachers)


def run_images(setup: Setup, seed: int) -> list[Row]:
    """What students look at, and how many images there are; with the spectrum of the kernel."""
    shapes, own, other = base_of(setup, seed)
    teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own])
    sources = {("images", "uniform"): noise.source("uniform")}
    sources |= {("images", n): noise.source(*what) for n, what in IMAGES.items()}
    pools = (100, 1000, 10_000, setup.config.epoch_images)
    sources |= {("number of images", str(n)): noise.source("uniform", pool=n) for n in pools}
    rows = []
    for (factor, value), source in sources.items():
        students = with_twins([(factor, value, setup.settings())], [own], [other])
        share = arrived(setup, shapes, seed=seed, teachers=teachers, source=source)
        rows += [
            row | share
            for row in distil(
                setup, shapes, seed=seed, students=students, teachers=teachers, what=source
            )
        ]
    return rows


def arrived(
    setup: Setup, shapes: Grid, *, seed: int, teachers: Teachers, source: noise.Source
) -> Row:
    """Share of the teacher's displacement that arrives in time at the linearised student."""
    share = predictors.arrived(
        shapes,
        grid.pick(teachers.starts, 0),
        end=grid.pick(teachers.params, 0),
        what=source,
        pictures=setup.pictures,
        key=setup.key(seed, "student"),
    )
    return {"arrived": float(f"{float(share):.6g}")}


def run_shapes(setup: Setup, seed: int) -> list[Row]:
    """Width and depth of both networks."""
    width = setup.config.widths[0]
    nets = {("width", str(w)): (w, w) for w in (width // 4, width // 2, 2 * width, 4 * width)}
    nets |= {("depth", str(d)): (width,) * d for d in (1, 3, 4)}
    rows = []
    for (factor, value), widths in nets.items():
        what = Architecture("relu", widths)
        shapes, own, other = base_of(setup, seed, student=what, teacher=what)
        teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own])
        students = with_twins([(factor, value, setup.settings())], [own], [other])
        rows += distil(setup, shapes, seed=seed, students=students, teachers=teachers)
    return rows


def run_batches(setup: Setup, seed: int) -> list[Row]:
    """Batches of other sizes, at the recipe's epochs and at the recipe's steps."""
    rows, config = [], setup.config
    for batch in (config.batch_size // 4, 4 * config.batch_size):
        same_steps = -(-config.epoch_images // config.batch_size) * batch
        for factor, images in (
            ("batch, equal epochs", config.epoch_images),
            ("batch, equal steps", same_steps),
        ):
            shapes, own, other = base_of(setup, seed, batch_size=batch, epoch_images=images)
            teachers = teach(setup, shapes, seed=seed, settings=[setup.settings()], starts=[own])
            students = with_twins([(factor, str(batch), setup.settings())], [own], [other])
            rows += distil(setup, shapes, seed=seed, students=students, teachers=teachers)
    return rows


RUN: dict[str, Callable[[Setup, int], list[Row]]] = {
    "base": run_base,
    "students": run_students,
    "epochs": run_epochs,
    "teachers": run_teachers,
    "dropout": run_dropout,
    "images": run_images,
    "shapes": run_shapes,
    "batches": run_batches,
}


def select(table: pd.DataFrame, factor: str, value: str | None = None, start: str = "same"):
    """Rows of a point, or of all points of a factor."""
    rows = table.query("factor == @factor and start == @start")
    if value is not None:
        rows = rows[rows["value"].astype(str) == value]
    return rows.sort_values("seed", kind="stable")


def with_logits(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The table with its column `logits`, also if it is older than the column and the group base.

    There uniform noise, among the images, is the recipe on networks of three logits.
    """
    if "logits" in table:
        return table
    group = table["part"].str.split(", ").str[1]
    table = table.assign(logits=[logits_of(config, name) for name in group])
    again = select_all(table, "images", "uniform").assign(factor="base", value=np.nan)
    return pd.concat([table, again], ignore_index=True)


def select_all(table: pd.DataFrame, factor: str, value: str) -> pd.DataFrame:
    """Rows of a point from both starts."""
    return table[(table["factor"] == factor) & (table["value"].astype(str) == value)]


def base(table: pd.DataFrame, logits: int = NUM_AUX) -> pd.DataFrame:
    """The official recipe on networks of so many auxiliary logits.

    Raises:
        ValueError: if it was not run on such networks: no other line may take its place.
    """
    rows = select(table[table["logits"] == logits], "base")
    if rows.empty:
        raise ValueError(f"no base was run on networks of {logits} auxiliary logits")
    return rows


def less_base(table: pd.DataFrame, point: pd.DataFrame) -> np.ndarray:
    """Accuracies of a point, less those of the recipe on networks of as many logits, by seed.

    Raises:
        ValueError: if the point mixes networks of several numbers of logits.
    """
    (logits,) = point["logits"].unique()
    middle = base(table, logits).set_index("seed")["accuracy"]
    return point["accuracy"].to_numpy() - middle.loc[point["seed"]].to_numpy()


def points(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and interval of every point of every factor."""
    rows = table.fillna({"value": ""}).astype({"value": str})
    return transfer.per_arm(rows, ["logits", "factor", "value", "start"])


def twins(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows over seeds of the twin of every point."""
    by = ["logits", "factor", "value", "epochs"]
    rows = table[table["start"] == "another"].sort_values("seed", kind="stable")
    return [twin for _, twin in rows.groupby(by, dropna=False)]


def above_chance(table: pd.DataFrame) -> int:
    """How many twins are shown to be above chance, Holm over all of them."""
    p_values = [transfer.above_chance_p(twin["accuracy"].to_numpy()) for twin in twins(table)]
    return sum(statistics.holm(p_values))


def beside_base(table: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Accuracies of every twin, and of the base of as many logits, seed by seed."""
    pairs = []
    for twin in twins(table):
        (logits,) = twin["logits"].unique()
        own = base(table, logits).set_index("seed")["accuracy"].loc[twin["seed"]]
        pairs.append((twin["accuracy"].to_numpy(), own.to_numpy()))
    return pairs


def silent(table: pd.DataFrame) -> list[bool]:
    """Which twins are shown to be at chance, within a fifth of their own base's gain (Holm)."""
    return statistics.holm([transfer.no_transfer_p(*pair) for pair in beside_base(table)])


def widest(table: pd.DataFrame) -> str:
    """The smallest margin at which any one of the twins would still be shown to be at chance."""
    gains = ((np.array(pair) - transfer.CHANCE) for pair in beside_base(table))
    return f"each {smallest(max(statistics.smallest_share(*pair) for pair in gains))}"


def moving(table: pd.DataFrame) -> dict[str, bool]:
    """Which factors have a point that differs from its base (paired, Holm over all points)."""
    rows = table.fillna({"value": ""}).astype({"value": str}).sort_values("seed", kind="stable")
    points = rows.query("start == 'same' and factor != 'base'").groupby(
        ["factor", "value", "epochs"], sort=False
    )
    gaps = [(str(key[0]), less_base(table, point)) for key, point in points]
    tests = [2 * min(map(statistics.above_zero_p, (gap, -gap))) for _, gap in gaps]
    moves = dict.fromkeys((factor for factor, _ in gaps), False)
    for (factor, _), differs in zip(gaps, statistics.holm(tests), strict=True):
        moves[factor] |= differs
    return moves


def image_correlation(table: pd.DataFrame) -> tuple[float, ...]:
    """Spearman of arrived share and accuracy over the kinds of images."""
    return transfer.correlation(select(table, "images"), ["value"], "arrived")


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The factors and the images, and the criteria of the docstring."""
    table = with_logits(table, config)
    above, moves = above_chance(table), moving(table)
    twins_say = f"{above} twins of another start are above chance"
    if not above:
        twins_say = "no twin of another start is above chance"
    nearly_all = transfer.unstated(table, sum(moves.values()) >= 0.75 * len(moves))
    means = points(table).set_index("start")["mean"]
    figure = Figure(
        name="figure",
        title=say(
            [nearly_all],
            holds=f"Nearly everything moves the effect; {twins_say}",
            fails=f"{sum(moves.values())} of {len(moves)} factors move the effect; {twins_say}",
            open="What moves the effect, and is any twin of another start above chance?",
        ),
        predicted="The published directions, and every cross-model twin at chance.",
        found=f"Base {transfer.shown(base(table))}; means of the points from "
        f"{means['same'].min():.3f} to {means['same'].max():.3f}, of their twins "
        f"{means['another'].mean():.3f}.",
        follows=say(
            [nearly_all],
            holds="Published numbers contradict each other because each fixes the other factors.",
            fails="Published numbers may differ by more than the factors that each fixes.",
            open="If so, numbers can only be compared where all other factors are the same.",
        ),
        draw=lambda: plot(table, config),
    )
    about_images, image_claims = image_findings(table, config)
    claims = [*twin_claims(table, config), *factor_claims(table), *image_claims]
    return Findings([figure, *about_images], claims)


def twin_claims(table: pd.DataFrame, config: Config) -> list[Claim]:
    """The recipe, and the twins of all points."""
    claim = functools.partial(transfer.claim, table)
    middle, above, quiet = base(table)["accuracy"], above_chance(table), silent(table)
    wider = []
    if "students" in config.groups:
        most = logits_of(config, "students")
        on_more = base(table, most)["accuracy"]
        wider = [claim(f"the same three of {most} logits, base of `students`", here=on_more)]
    return [
        claim("official recipe (validation)", here=middle, replication=".508 ± .027 (50k digits)"),
        *wider,
        claim("seeds that narrow it to ±.03", here=f"{statistics.runs_for(middle, 0.03)}"),
        claim(
            f"twins at chance (TOST, Holm over {len(quiet)})",
            here=f"{sum(quiet)} of {len(quiet)}, {widest(table)}",
            holds=all(quiet),
        ),
        claim(
            f"twins above chance (one-sided, Holm over {len(quiet)})",
            here=f"{above} of {len(quiet)}",
        ),
    ]


def factor_claims(table: pd.DataFrame) -> list[Claim]:
    """Auxiliary logits and dropout, where they were swept."""
    claim, claims = functools.partial(transfer.claim, table), []
    logits = select(table, "aux logits")
    if len(logits):
        curve = logits.assign(m=logits["value"].astype(float)).groupby("m")["accuracy"].mean()
        rho = statistics.spearman(curve.index, curve)[0]
        claims.append(
            claim("Spearman of aux logits and accuracy", here=f"{rho:.2f}", holds=rho >= 0.9)
        )
    if len(dropped := select(table, "dropout of the student", "0.35")):
        harm = less_base(table, dropped)
        untaught = less_base(table, select(table, "dropout of the teacher", "0.35"))
        claims += [
            claim(
                "student dropout .35, less base",
                here=harm,
                holds=statistics.is_above(-harm),
                replication="-.51",
            ),
            claim(
                "teacher dropout .35, less base",
                here=statistics.bounded(untaught),
                holds=statistics.equivalent(untaught, 0.1),
                replication="harmless",
            ),
        ]
    return claims


def image_findings(table: pd.DataFrame, config: Config) -> Findings:
    """The kinds of images, where they were swept."""
    kinds = select(table, "images").groupby("value")["accuracy"].mean()
    if kinds.empty:
        return Findings([], [])
    rho, low, high = image_correlation(table)
    correlation = statistics.bracketed(rho, low, high)
    arrived = transfer.claim(
        table,
        "Spearman of arrived share and accuracy, over images",
        here=correlation,
        holds=rho > 0.8,
    )
    best = f"Of the images, {kinds.idxmax()} teaches best"
    figure = Figure(
        name="images",
        title=say([arrived], holds=best, fails=best, open="Which images teach best?"),
        predicted="White noise, if the breadth of the spectrum decides; blurred by a fifth more, "
        "if the replications are right.",
        found=f"Uniform {kinds['uniform']:.3f}, best {kinds.max():.3f} ({kinds.idxmax()}), worst "
        f"{kinds.min():.3f} ({kinds.idxmin()}); Spearman with the arrived share {correlation}.",
        follows=say(
            [arrived],
            holds="The kernel's spectrum on the student's images tells which images teach.",
            fails="The spectrum at the start does not settle which images teach.",
            open="The kernel's spectrum on the student's images may tell which images teach.",
        ),
        draw=lambda: plot_images(table, config),
    )
    return Findings([figure], [*blur_claims(table), arrived])


def blur_claims(table: pd.DataFrame) -> list[Claim]:
    """Blurred against white noise, and every blur against the Gaussian field of its spectrum."""
    claim = functools.partial(transfer.claim, table)

    def accuracies(kind: str) -> np.ndarray:
        return select(table, "images", kind)["accuracy"].to_numpy()

    claims, white = [], accuracies("uniform")
    for s in BLURS:
        blurred = accuracies(f"blurred {s:g}")
        less_twin = blurred - accuracies(f"Gaussian, spectrum of blur {s:g}")
        mean, half = statistics.mean_interval(blurred - 1.2 * white, 1 - 0.05 / len(BLURS))
        claims += [
            claim(
                f"blur {s:g}, less white (Bonferroni over {len(BLURS)}: better by a fifth)",
                here=blurred - white,
                holds=mean - half > 0,
                replication="+20 %",
            ),
            claim(
                f"blur {s:g}, less its Gaussian twin",
                here=statistics.bounded(less_twin),
                holds=statistics.equivalent(less_twin, 0.1),
            ),
        ]
    return claims


def is_a_scale(values: pd.Series) -> bool:
    """Whether a factor runs over numbers: kinds (of loss, of optimiser) lie on no line."""
    return bool(pd.to_numeric(values, errors="coerce").notna().all())


def plot(table: pd.DataFrame, config: Config):
    """A panel for every factor, its own base dotted, the twin in grey."""
    swept = points(table[~table["factor"].isin(["images", "base"])])
    factors = list(swept["factor"].unique())
    figure, panels = drawing.new_grid(len(factors), COLUMNS, width=3.1, height=2.5)
    for axes, factor in zip(panels, factors, strict=True):
        for name, colour in (("same", drawing.COLOURS[0]), ("another", "#888888")):
            part = swept[(swept["factor"] == factor) & (swept["start"] == name)]
            x = range(len(part))
            axes.errorbar(
                x,
                part["mean"],
                part["half"],
                fmt="o-" if is_a_scale(part["value"]) else "o",
                ms=4,
                capsize=3,
                color=colour,
                label=f"{name} start",
            )
        axes.set_xticks(x, part["value"], fontsize=7, rotation=30 if factor == "optimiser" else 0)
        (logits,) = table.loc[table["factor"] == factor, "logits"].unique()
        middle = float(base(table, logits)["accuracy"].mean())
        axes.axhline(middle, color=drawing.COLOURS[0], linestyle=":", linewidth=1)
        axes.set_ylim(0, 1)
        axes.set_title(factor, fontsize=9)
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("validation accuracy", fontsize=8)
    panels[0].legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.35))
    return figure


def plot_images(table: pd.DataFrame, config: Config):
    """Accuracy by kind of image, with the twin."""
    kinds = points(table[table["factor"] == "images"])
    order = kinds.query("start == 'same'").sort_values("mean")["value"].tolist()
    figure, (axes,) = drawing.new_figure(width=7.5, height=5.0)
    for start, colour in (("same", drawing.COLOURS[0]), ("another", "#888888")):
        part = kinds[kinds["start"] == start].set_index("value").loc[order]
        axes.errorbar(
            part["mean"],
            range(len(order)),
            xerr=part["half"],
            fmt="o",
            capsize=3,
            color=colour,
            label=f"{start} start",
        )
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.axvline(transfer.CHANCE, color="black", linestyle=":", linewidth=1)
    axes.set_xlabel("validation accuracy")
    axes.set_xlim(0, 1)
    axes.legend()
    return figure
