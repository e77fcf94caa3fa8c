"""How well can a student do that sees three auxiliary logits on noise, and nothing else?

A full factorial over loss (squared error, KL), the student's rate, width and kind of noise: every
level of a factor meets every level of the others equally often, so an effect of the loss is none of
the rate. The teacher's rate and the batch are the same throughout. Recipes are judged, at several
numbers of steps, on a sixth of the training digits by a seed that is used for nothing else. The
best recipe then trains fresh seeds once, on all training digits, and they are tested once.

Beside it, on the same fresh seeds: its twin of another start; the best recipe at the 295 steps of
the official recipe, and that recipe itself; the predicted recipe; and what an earlier search chose
(width 256, squared error, 3e-4, blurred noise, 9,400 steps of 256: .949 ± .006). That search drew
six recipes, of which one had squared error and it alone had the rate 3e-4, so it could not tell one
from the other, and the predicted recipe was not among them. Accuracy rises with steps: a number
without its steps says little. Best public figure with three logits: .900 ± .004 (squared error,
width 128, 1e-3, 40 epochs of 50,000 images, about 1,960 steps, chosen on validation); here 33
epochs of 60,000 are 1,947 steps.

Prediction, written before the run: squared error, a rate of 1e-3, a width of 128 and uniform noise
win at 1,947 steps, at about .90: what three outputs carry of the displacement arrives in time. The
longest distillation is the budget and no optimum.

Criteria: the chosen recipe's mean accuracy on the test digits is at least .90 (its interval
reported); its twin, no transfer (equivalence to chance within a fifth of the gain); the predicted
recipe lies within .02 of the chosen one (equivalence, paired); at 295 steps the best recipe is
above the official one (95 % interval, paired). Edges of the design that the chosen recipe lies on
are named.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, corrected, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, distil, setup_of, teach
from mnist_mlp import noise
from mnist_mlp.model import Architecture

__all__ = ["inputs"]
RUNTIME = "about 100 minutes on two cores"
SEARCH_SEEDS = 10_000  # and above: of the search alone
NUM_AUX = 3
KINDS = (("uniform", 1.0), ("blurred", 1.0), ("blurred", 2.0))
LOSSES = ("squared error", "KL")
FACTORS = ("width", "images", "loss", "rate")
RECIPE = ["width", "kind", "scale", "teacher_rate", "rate", "loss", "batch"]  # columns of one
UNIFORM: Row = {"kind": "uniform", "scale": 1.0}
PREDICTED: Row = {"width": 128, **UNIFORM, "loss": "squared error", "rate": 1e-3}
# What the design does not hold, whole.
FIXED: dict[str, Row] = {
    "official": {
        "width": 256,
        **UNIFORM,
        "loss": "KL",
        "rate": 3e-4,
        "teacher_rate": 3e-4,
        "batch": 1024,
        "epochs": 5,
    },
    "earlier search": {
        "width": 256,
        "kind": "blurred",
        "scale": 1.0,
        "loss": "squared error",
        "rate": 3e-4,
        "teacher_rate": 3e-4,
        "batch": 256,
        "epochs": 40,
    },
}
BESIDE = ("predicted", *FIXED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """The design; the learning rate is the teacher's."""

    search_widths: tuple[int, ...] = option((128, 256, 512), "of both hidden layers", minimum=1)
    student_rates: tuple[float, ...] = option(
        (3e-4, 1e-3, 3e-3), "students' Adam step sizes", minimum=0
    )
    batch_size: int = option(1024, "images in a batch", minimum=1)
    epoch_images: int = option(60_000, "images in an epoch", minimum=1)
    doses: tuple[int, ...] = option((5, 10, 20, 33), "distillation epochs, rising", minimum=1)
    search_seeds: int = option(1, "seeds of the search", minimum=1)
    beside: tuple[str, ...] = option(BESIDE, "recipes on the seeds of the best", choices=BESIDE)


SMOKE = Config(**flags.TOY | {"search_widths": (16,), "doses": (1, 2), "beside": ()})


def arms(config: Config) -> dict[str, Arm]:
    """The search by seed, width and noise; then what it chose and what stands beside, by seed."""
    searching, testing = setup_of(config, validation=True), setup_of(config)
    searches = {
        f"search seed {seed}, width {width}, {kind} {scale:g}": Arm(
            columns={"seed": seed, "phase": "search"},
            measure=functools.partial(
                run_search, searching, seed, width=width, kind=kind, scale=scale
            ),
        )
        for seed in range(SEARCH_SEEDS, SEARCH_SEEDS + config.search_seeds)
        for width in config.search_widths
        for kind, scale in KINDS
    }
    finals = {
        f"final seed {seed}": Arm(
            columns={"seed": seed, "phase": "final"},
            measure=functools.partial(run_final, testing, seed),
            reads=tuple(searches),
        )
        for seed in range(config.num_seeds)
    }
    return searches | finals


def design(config: Config) -> list[Row]:
    """All recipes of the search, without their epochs."""
    common = {"teacher_rate": config.learning_rate, "batch": config.batch_size}
    return [
        {"width": width, "kind": kind, "scale": scale, "loss": loss, "rate": rate} | common
        for width, (kind, scale), loss, rate in itertools.product(
            config.search_widths, KINDS, LOSSES, config.student_rates
        )
    ]


def crossed(recipes: pd.DataFrame, factors: Sequence[str]) -> bool:
    """Whether all levels of any two factors meet equally often, so that none hides another."""
    recipes = recipes[list(factors)].drop_duplicates()
    return all(
        len(pairs := recipes.groupby([a, b]).size()) == recipes[a].nunique() * recipes[b].nunique()
        and pairs.nunique() == 1
        for a, b in itertools.combinations(factors, 2)
    )


def with_images(table: pd.DataFrame) -> pd.DataFrame:
    """The table with kind and scale of the noise as one factor."""
    return table.assign(images=table["kind"] + " " + table["scale"].map("{:g}".format))


def run_search(setup: Setup, seed: int, *, width: int, kind: str, scale: float) -> list[Row]:
    """All recipes of a width and a kind of noise side by side, at every dose."""
    wanted = (width, kind, scale)
    recipes = [r for r in design(setup.config) if (r["width"], r["kind"], r["scale"]) == wanted]
    return train(setup, seed, recipes=recipes, starts=("same",), doses=setup.config.doses)


def run_final(setup: Setup, seed: int, searched: list[Row]) -> list[Row]:
    """Recipes and their twins on a fresh seed, all training digits, the test digits."""
    config, rows = setup.config, []
    for arm, recipe in finals(config, pd.DataFrame(searched)).items():
        doses = (int(recipe["epochs"]),)
        trained = train(setup, seed, recipes=[recipe], starts=("same", "another"), doses=doses)
        rows += [{"arm": arm} | row for row in trained]
    return rows


def finals(config: Config, searched: pd.DataFrame) -> dict[str, Row]:
    """What fresh seeds are trained by: the best at the last and at the first dose, and others."""
    common = {"teacher_rate": config.learning_rate, "batch": config.batch_size}
    last = config.doses[-1]
    fixed = {"predicted": PREDICTED | common | {"epochs": last}} | FIXED
    out = {"chosen": best(searched, last)}
    if len(config.doses) > 1:
        out["chosen, first dose"] = best(searched, config.doses[0])
    return out | {name: fixed[name] for name in config.beside}


def train(
    setup: Setup, seed: int, *, recipes: list[Row], starts: Sequence[str], doses: Sequence[int]
) -> list[Row]:
    """Students of recipes that share width, images, batch and the teacher's rate."""
    first = recipes[0]
    what = Architecture("relu", (int(first["width"]),) * 2)
    shapes = setup.grid(NUM_AUX, what, teacher=what, batch_size=int(first["batch"]))
    pool = {
        "same": setup.draw(shapes, seed, "reference"),
        "another": setup.draw(shapes, seed, "other"),
    }
    taught = [setup.settings(learning_rate=first["teacher_rate"])]
    teachers = teach(setup, shapes, seed=seed, settings=taught, starts=[pool["same"]])
    students = [
        Student(
            {"start": start} | {k: v for k, v in recipe.items() if k != "epochs"},
            setup.settings(
                learning_rate=recipe["rate"], squared=float(recipe["loss"] == "squared error")
            ),
            pool[start],
        )
        for recipe in recipes
        for start in starts
    ]
    rows = distil(
        setup,
        shapes,
        seed=seed,
        students=students,
        teachers=teachers,
        what=noise.source(first["kind"], float(first["scale"])),
        doses=doses,
        measure=False,
    )
    steps = -(-shapes.epoch_images // shapes.batch_size)
    return [row | {"steps": row["epochs"] * steps} for row in rows]


def best(table: pd.DataFrame, epochs: int | None = None) -> Row:
    """The recipe of the largest mean validation accuracy, at one dose or at any."""
    rows = table.query("phase == 'search'")
    if epochs is not None:
        rows = rows[rows["epochs"] == epochs]
    names = [*RECIPE, "epochs"]
    means = rows.groupby(names)["accuracy"].mean()
    return dict(zip(names, means.idxmax(), strict=True))


def final(table: pd.DataFrame, start: str = "same", arm: str = "chosen") -> pd.DataFrame:
    """Test accuracies of a recipe, by seed."""
    return table.query("phase == 'final' and start == @start and arm == @arm").sort_values("seed")


def in_words(recipe: Row) -> str:
    """A recipe in one line."""
    return (
        f"width {recipe['width']}, {recipe['loss']}, rate {recipe['rate']:g} (teacher "
        f"{recipe['teacher_rate']:g}), {recipe['epochs']} epochs, {recipe['kind']} "
        f"{recipe['scale']:g}"
    )


def edges(table: pd.DataFrame, recipe: Row) -> list[str]:
    """Ordered factors whose smallest or largest level the recipe has."""
    searched = table.query("phase == 'search'")
    levels = {
        name: sorted(searched[name].unique()) for name in ("width", "scale", "rate", "epochs")
    }
    return [
        name
        for name, values in levels.items()
        if len(values) > 1 and recipe[name] in (values[0], values[-1])
    ]


def effects(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """At the last dose: squared error less KL at every rate, and the rates by loss, as means.

    Raises:
        ValueError: if the recipes are not crossed: the difference would be that of another factor.
    """
    rows = with_images(table.query("phase == 'search'"))
    if not crossed(rows, FACTORS):
        raise ValueError("loss and rate are confounded in these recipes: neither has an effect")
    rows = rows[rows["epochs"] == rows["epochs"].max()]
    means = rows.groupby(["loss", "rate"])["accuracy"].mean().unstack("rate")
    return {
        "squared error less KL": {
            f"at {rate:g}": gap
            for rate, gap in (means.loc["squared error"] - means.loc["KL"]).items()
        },
        **{
            loss: {f"at {rate:g}": value for rate, value in means.loc[loss].items()}
            for loss in LOSSES
        },
    }


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The search and what its choice reaches, and the criteria of the docstring."""
    top, twin = (final(table, start)["accuracy"].to_numpy() for start in ("same", "another"))
    recipe = chosen_of(table)
    chosen, on_edges = in_words(recipe), ", ".join(edges(table, recipe)) or "none"
    claim = functools.partial(transfer.claim, table[table["phase"] == "final"])
    reached = claim(
        "best of three aux logits, test digits",
        here=top,
        holds=top.mean() >= 0.9,
        replication=".900 ± .004",
    )
    claims = [
        reached,
        claim(
            "its twin of another start (TOST)",
            here=f"{statistics.shown(twin)}, {transfer.least(twin, top)}",
            holds=transfer.no_transfer_p(twin, top) < 0.05,
            replication=".102",
        ),
        Claim(quantity="chosen on validation", here=chosen, seeds=config.search_seeds),
        Claim(quantity="edges of the search it lies on", here=on_edges, seeds=config.search_seeds),
        *beside_claims(table),
        *effect_claims(table),
    ]
    taught = f"Three auxiliary logits on noise teach {top.mean():.0%} of the digits"
    steps = f" after {final(table)['steps'].iloc[0]:,} steps"
    figure = Figure(
        name="figure",
        title=say(
            [reached],
            holds=taught + steps,
            fails=taught + steps,
            open="How many of the digits can three auxiliary logits on noise teach?",
        ),
        predicted="About .90, by squared error, a rate of 1e-3 and long distillation.",
        found=f"{statistics.shown(top)} on the test digits{steps}, chosen on validation: {chosen} "
        f"(on the edge of: {on_edges}); its twin of another start {statistics.shown(twin)}.",
        follows=say(
            [reached],
            holds="What three outputs can carry is a matter of the recipe and of time.",
            fails="This search does not find what a public replication found.",
            open="What three outputs can carry may be a matter of the recipe and of time.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def chosen_of(table: pd.DataFrame) -> Row:
    """The recipe that the final seeds were trained by."""
    return best(table, int(final(table)["epochs"].iloc[0]))


def beside_claims(table: pd.DataFrame) -> list[Claim]:
    """The recipes that were trained beside the chosen one, each with its steps."""
    claim, claims = functools.partial(transfer.claim, table[table["phase"] == "final"]), []
    by_arm = {name: final(table, arm=name) for name in table["arm"].dropna().unique()}
    values = {name: rows["accuracy"].to_numpy() for name, rows in by_arm.items()}
    for name, rows in by_arm.items():
        if name != "chosen":
            twin = final(table, "another", name)["accuracy"]
            claims.append(
                claim(
                    f"{name}, {rows['steps'].iloc[0]} steps",
                    here=f"{statistics.shown(values[name])}, its twin {statistics.shown(twin)}",
                )
            )
    if "predicted" in values:
        less = values["predicted"] - values["chosen"]
        claims.append(
            claim(
                "predicted less chosen (TOST, .02)",
                here=statistics.bounded(less),
                holds=statistics.equivalent(less, 0.02),
            )
        )
    if {"official", "chosen, first dose"} <= values.keys():
        more = values["chosen, first dose"] - values["official"]
        claims.append(claim("best less official recipe at its steps", here=more, above=more))
    return corrected(claims)[0]


def effect_claims(table: pd.DataFrame) -> list[Claim]:
    """Loss and rate at the last dose of the search."""
    searched = table.query("phase == 'search'")
    return [
        Claim(
            quantity=f"search, means over widths and noise: {name}",
            here=", ".join(f"{value:.3f} {level}" for level, value in levels.items()),
            seeds=searched["seed"].nunique(),
        )
        for name, levels in effects(table).items()
    ]


def plot(table: pd.DataFrame, config: Config):
    """Every recipe of the search by steps, and the final test accuracies."""
    figure, (axes,) = drawing.new_figure()
    search = table.query("phase == 'search'")
    for colour, ((kind, scale), rows) in zip(
        drawing.COLOURS, search.groupby(["kind", "scale"], sort=False), strict=False
    ):
        for i, (recipe, line) in enumerate(rows.groupby(RECIPE)):
            curve = line.groupby("steps")["accuracy"].mean()
            style = "-" if "squared error" in recipe else "--"
            label = f"{kind} {scale:g}" if i == 0 else None
            axes.plot(curve.index, curve, style, color=colour, lw=0.8, alpha=0.7, label=label)
    for marker, arm in zip(drawing.MARKERS, table["arm"].dropna().unique(), strict=False):
        for start, colour in (("same", "black"), ("another", "#888888")):
            rows = final(table, start, arm)
            point = [rows["accuracy"]]
            look = {"fmt": marker, "capsize": 4, "color": colour}
            look["label"] = f"{arm}, test digits" if start == "same" else None
            drawing.intervals(axes, [rows["steps"].iloc[0]], point, **look)
    axes.set_xlabel("steps of distillation (full: squared error, dashed: KL; grey: twins)")
    axes.set_xscale("log")
    axes.set_ylabel("accuracy (search: validation)")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8)
    return figure
