"""What the MNIST experiments share: their flags, their images, and arms turned into rows."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from experiments.lab import statistics
from experiments.lab.frame import Claim, Row, option
from mnist_mlp import data, grid, noise, predictors
from mnist_mlp.grid import Grid, Settings
from mnist_mlp.model import Architecture, Params

CHANCE = 0.1
# "No transfer": the mean lies within a fifth of what a shared start gains over chance, by two
# one-sided tests. Stated here once, before any run.
MARGIN_SHARE = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings that every grid experiment has."""

    num_seeds: int = option(8, "independent teachers, each with all arms", minimum=2)
    widths: tuple[int, ...] = option((128, 128), "hidden layer widths of the teacher", minimum=1)
    learning_rate: float = option(1e-3, "Adam step size", minimum=0, maximum=1)
    batch_size: int = option(256, "images in a batch", minimum=1)
    epoch_images: int = option(15_104, "images in an epoch", minimum=1)
    epochs: int = option(5, "epochs of teachers and of students", minimum=1)
    stack: int = option(12, "networks trained side by side; more suit an accelerator", minimum=1)
    dataset: str = option("mnist", "image data set", choices=data.DATASETS)
    data_dir: str = option("", "folder of IDX files (else SUBLIMINAL_DATA_DIR, the user cache)")
    # Root 0 was looked at, on test digits, when batch and rate were chosen (experiments/LOG.md).
    seed: int = option(1, "root of every random key", minimum=0)


TOY = {
    "num_seeds": 2,
    "widths": (16,),
    "batch_size": 64,
    "epoch_images": 128,
    "epochs": 2,
    "stack": 4,
    "dataset": "digits",
    "learning_rate": 1e-2,
}


@functools.cache
def read_data(dataset: str, data_dir: str) -> data.ImageData:
    """The data set; the bundled digits, said aloud, where no MNIST can be had."""
    try:
        return data.load(dataset, data_dir or None)
    except data.DataNotFoundError as error:
        if dataset != "mnist":
            raise
        print(
            f"note: {error}; using scikit-learn's bundled digits instead, marked as 'digits'",
            file=sys.stderr,
        )
        return data.load("digits")


def inputs(config: Any) -> dict[str, str | int]:
    """What was really read, recorded beside the config."""
    images = read_data(config.dataset, config.data_dir)
    return {"dataset": images.name, "train_images": len(images.train_images)}


class Lab(NamedTuple):
    """Images and defaults of a run."""

    config: Any
    data: data.ImageData
    pictures: noise.Pictures

    @property
    def architecture(self) -> Architecture:
        """Of the teachers."""
        return Architecture("relu", self.config.widths)

    def grid(self, num_aux: int, student: Architecture | None = None, **changes) -> Grid:
        """Shapes at this number of auxiliary logits, students like their teachers by default."""
        base = Grid(
            student=student or self.architecture,
            teacher=self.architecture,
            num_aux=num_aux,
            num_classes=self.data.num_classes,
            batch_size=self.config.batch_size,
            epoch_images=self.config.epoch_images,
        )
        return dataclasses.replace(base, **changes)

    def settings(self, **changes) -> Settings:
        """The run's recipe with changes; those of the optimiser are passed by their own names."""
        base = Settings()
        names = set(base.optimizer._fields)
        rates = {"learning_rate": self.config.learning_rate}
        rates |= {k: changes.pop(k) for k in names & changes.keys()}
        return base._replace(optimizer=base.optimizer._replace(**rates), **changes)

    def key(self, seed: int, purpose: str) -> jax.Array:
        """A stream of one seed; no two purposes or seeds share one."""
        root = jax.random.fold_in(jax.random.key(self.config.seed), seed)
        return jax.random.fold_in(root, int.from_bytes(purpose.encode()[-3:], "big"))

    def draw(self, shapes: Grid, seed: int, purpose: str, what: Architecture | None = None):
        """A random network of the grid's teacher, or of `what`."""
        num_pixels = self.data.train_images.shape[1]
        init, _ = grid.network(shapes, what or shapes.teacher, num_pixels)
        return jax.jit(init)(self.key(seed, purpose))

    def accuracy(self, shapes: Grid, what: Architecture, params: Params, **more) -> list[float]:
        """On the test digits (of the validation split, where that was asked for)."""
        found = grid.accuracies(
            shapes,
            what,
            params=params,
            images=self.data.test_images,
            labels=self.data.test_labels,
            **more,
        )
        return np.asarray(found).round(6).tolist()


@functools.cache
def lab(config: Config, validation: bool = False) -> Lab:
    """Images of a run; with `validation`, a sixth of the training digits takes the test's place."""
    images = read_data(config.dataset, config.data_dir)
    if validation:
        images = data.validation_split(images)
    side = int(np.sqrt(images.train_images.shape[1]))
    return Lab(config, images, noise.Pictures(images.train_images, *data.other_pictures(side)))


def seeds(config: Config, run: Callable[[Lab, int], list[Row]], **which) -> dict[str, Callable]:
    """One resumable part for every seed."""
    where = lab(config, **which)
    return {f"seed {s}": functools.partial(run, where, s) for s in range(config.num_seeds)}


class Arm(NamedTuple):
    """One student: what its rows say, how it is trained and where it starts."""

    columns: Row
    settings: Settings
    start: Params


class Teachers(NamedTuple):
    """Stacked teachers and their starts, trained."""

    starts: Params
    params: Params
    accuracy: list[float]


def teach(
    where: Lab,
    shapes: Grid,
    *,
    seed: int,
    settings: Sequence[Settings],
    starts: Sequence[Params],
    epochs: int | None = None,
    **scale: Any,
) -> Teachers:
    """Teachers of a seed, side by side on the same digits."""
    stack, params = grid.stack(settings), grid.stacked(starts)
    state = grid.start(shapes, stack, params)
    last = where.config.epochs if epochs is None else epochs
    key = where.key(seed, "teacher")
    found = grid.teach(
        shapes, where.data, settings=stack, state=state, key=key, first=0, last=last, **scale
    )[0]
    return Teachers(params, found, where.accuracy(shapes, shapes.teacher, found, **scale))


def chunks(arms: Sequence[Arm], size: int) -> Iterator[tuple[list[Arm], int]]:
    """Stacks of one size, so that one program serves them; of the last only some arms count."""
    size = -(-len(arms) // -(-len(arms) // size))  # as even as can be: little filling
    for first in range(0, len(arms), size):
        few = list(arms[first : first + size])
        yield few + [few[-1]] * (size - len(few)), len(few)


def distil(
    where: Lab,
    shapes: Grid,
    *,
    seed: int,
    arms: Sequence[Arm],
    teachers: Teachers,
    what: noise.Source | None = None,
    doses: Sequence[int] = (),
    measure: bool = True,
    scale: grid.Scale = grid.AS_IS,
    wrap: grid.Wrap = grid.unchanged,
    **more: Any,
) -> list[Row]:
    """Rows of all arms: accuracy after every dose, and `mnist_mlp.predictors`.

    Args:
        where: images and defaults.
        shapes: of students and teachers.
        seed: whose noise is drawn.
        arms: any number of students of one architecture.
        teachers: numbered by `settings.teacher`.
        what: the students' images; uniform noise if omitted.
        doses: epochs after which accuracy is measured; the config's epochs if omitted.
        measure: whether to add the predictors.
        scale: of the pixels.
        wrap: changes the students' optimisers.
        more: of `grid.imitate`.
    """
    what = noise.source("uniform") if what is None else what
    doses = doses or (where.config.epochs,)
    key = where.key(seed, "student")
    rows: list[Row] = []
    for few, count in chunks(arms, where.config.stack):
        settings = grid.stack([arm.settings for arm in few])
        starts = grid.stacked([arm.start for arm in few])
        state = grid.start(shapes, settings, starts, wrap)
        found = []
        for first, last in zip((0, *doses), doses, strict=False):
            state = grid.imitate(
                shapes,
                settings,
                state=state,
                teachers=teachers.params,
                what=what,
                pictures=where.pictures,
                key=key,
                first=first,
                last=last,
                scale=scale,
                wrap=wrap,
                **more,
            )
            found.append(where.accuracy(shapes, shapes.student, state[0], scale=scale))
        facts = {}
        if measure:
            given = {
                "settings": settings,
                "teacher_starts": teachers.starts,
                "teachers": teachers.params,
                "what": what,
                "pictures": where.pictures,
                "key": key,
            }
            end = {"starts": starts, "students": state[0]}
            facts = predictors.before(shapes, where.data, students=starts, **given)
            facts |= predictors.after(shapes, where.data, **end, **given)
        facts = {name: np.asarray(values, float) for name, values in facts.items()}
        rows += [
            {
                "seed": seed,
                **arm.columns,
                "epochs": dose,
                "accuracy": found[d][i],
                "teacher_accuracy": teachers.accuracy[int(arm.settings.teacher)],
                **{name: float(f"{values[i]:.6g}") for name, values in facts.items()},
                "dataset": where.data.name,
            }
            for i, arm in enumerate(few[:count])
            for d, dose in enumerate(doses)
        ]
    return rows


def mean(table: pd.DataFrame, column: str = "accuracy", digits: int = 3) -> str:
    """Mean ± half width over the seeds of a table that has one row a seed."""
    return statistics.shown(table[column].tolist(), digits)


def no_transfer(accuracies: Sequence[float], ceiling: float, chance: float = CHANCE) -> float:
    """The p value of a mean farther from chance than a fifth of the ceiling's gain (TOST)."""
    margin = MARGIN_SHARE * (ceiling - chance)
    return statistics.equivalence_p([a - chance for a in accuracies], margin)


def above_chance(accuracies: Sequence[float], chance: float = CHANCE) -> float:
    """The p value of a mean above chance (one-sided t test)."""
    return statistics.above_zero_p([a - chance for a in accuracies])


def claims_on(table: pd.DataFrame) -> tuple[list[Claim], Callable[..., None]]:
    """An empty list of claims, and `add(name, here, holds=None, replication="", paper="")` to it.

    Criteria are judged on MNIST only.
    """
    judged, seeds = table["dataset"].iloc[0] == "mnist", table["seed"].nunique()
    out: list[Claim] = []

    def add(
        name: str, here: str, holds: bool | None = None, replication: str = "", paper: str = ""
    ) -> None:
        verdict = bool(holds) if judged and holds is not None else None
        out.append(
            Claim(
                quantity=name,
                paper=paper,
                replication=replication,
                here=here,
                seeds=seeds,
                holds=verdict,
            )
        )

    return out, add


def holds(claims: Sequence[Claim], about: str) -> bool:
    """Whether no claim that begins with these words failed: what a figure's title may say."""
    return all(c.holds is not False for c in claims if c.quantity.startswith(about))


def per_arm(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean and half width of the accuracy over seeds, for every combination of columns."""
    grouped = table.groupby(list(by), sort=False, dropna=False)["accuracy"]
    halves = grouped.agg(lambda values: statistics.mean_interval(values)[1])
    return grouped.mean().to_frame("mean").assign(half=halves).reset_index()
