"""Teachers and students side by side, as rows: images and defaults of a run, and who is trained."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.frame.arms import Arm
from experiments.frame.images import read_data
from experiments.frame.record import Row
from experiments.mnist.kit.flags import Config
from mnist_mlp import data, grid, noise, predictors
from mnist_mlp.grid import Grid, Settings
from mnist_mlp.model import Architecture, Params


class Setup(NamedTuple):
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
        return jax.random.fold_in(root, zlib.crc32(purpose.encode()))

    def draw(self, shapes: Grid, seed: int, purpose: str, what: Architecture | None = None):
        """A random network of the grid's teacher, or of `what`."""
        num_pixels = self.data.train_images.shape[1]
        init, _ = grid.network(shapes, what or shapes.teacher, num_pixels)
        return jax.jit(init)(self.key(seed, purpose))

    def accuracy(self, shapes: Grid, what: Architecture, params: Params, **more) -> list[float]:
        """On the test digits (of the validation split, where that was asked for)."""
        accuracies = grid.accuracies(
            shapes,
            what,
            params=params,
            images=self.data.test_images,
            labels=self.data.test_labels,
            **more,
        )
        return np.asarray(accuracies).round(6).tolist()


@functools.cache
def setup_of(config: Config, validation: bool = False) -> Setup:
    """Of a run; with `validation`, a sixth of the training digits takes the test's place."""
    images = read_data(config.dataset, config.data_dir)
    if validation:
        images = data.validation_split(images)
    side = int(np.sqrt(images.train_images.shape[1]))
    return Setup(config, images, noise.Pictures(images.train_images, *data.other_pictures(side)))


def by_seed(setup: Setup, run: Callable[[Setup, int], list[Row]]) -> dict[str, Arm]:
    """One resumable arm for every seed."""
    return {
        f"seed {seed}": Arm(columns={"seed": seed}, measure=functools.partial(run, setup, seed))
        for seed in range(setup.config.num_seeds)
    }


class Student(NamedTuple):
    """What its rows say, how it is trained and where it starts."""

    columns: Row
    settings: Settings
    start: Params


class Teachers(NamedTuple):
    """Stacked teachers and their starts, trained."""

    starts: Params
    params: Params
    accuracy: list[float]


def teach(
    setup: Setup,
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
    last = setup.config.epochs if epochs is None else epochs
    key = setup.key(seed, "teacher")
    trained = grid.teach(
        shapes, setup.data, settings=stack, state=state, key=key, first=0, last=last, **scale
    )[0]
    return Teachers(params, trained, setup.accuracy(shapes, shapes.teacher, trained, **scale))


def chunks(students: Sequence[Student], size: int) -> Iterator[tuple[list[Student], int]]:
    """Stacks of one size, so that one program serves them; of the last only some students count."""
    size = -(-len(students) // -(-len(students) // size))  # as even as can be: little filling
    for first in range(0, len(students), size):
        chunk = list(students[first : first + size])
        yield chunk + [chunk[-1]] * (size - len(chunk)), len(chunk)


def distil(
    setup: Setup,
    shapes: Grid,
    *,
    seed: int,
    students: Sequence[Student],
    teachers: Teachers,
    what: noise.Source | None = None,
    doses: Sequence[int] = (),
    measure: bool = True,
    scale: grid.Scale = grid.AS_IS,
    scale_of_noise: grid.Scale | None = None,
    wrap: grid.Wrap = grid.unchanged,
    **more: Any,
) -> list[Row]:
    """Rows of all students: accuracy after every dose, and `mnist_mlp.predictors`.

    Args:
        setup: images and defaults.
        shapes: of students and teachers.
        seed: whose noise is drawn.
        students: any number, of one architecture.
        teachers: numbered by `settings.teacher`.
        what: the students' images; uniform noise if omitted.
        doses: epochs after which accuracy is measured; the config's epochs if omitted.
        measure: whether to add the predictors.
        scale: of the pixels of digits.
        scale_of_noise: of the students' images; that of the digits if omitted.
        wrap: changes the students' optimisers.
        more: of `grid.imitate`.
    """
    doses = doses or (setup.config.epochs,)
    shown: dict[str, Any] = {
        "teachers": teachers.params,
        "what": noise.source("uniform") if what is None else what,
        "pictures": setup.pictures,
        "key": setup.key(seed, "student"),
    }
    of_noise = scale if scale_of_noise is None else scale_of_noise
    imitate = functools.partial(grid.imitate, shapes, scale=of_noise, wrap=wrap, **shown, **more)
    rows: list[Row] = []
    for chunk, count in chunks(students, setup.config.stack):
        settings = grid.stack([student.settings for student in chunk])
        starts = grid.stacked([student.start for student in chunk])
        state, by_dose = grid.start(shapes, settings, starts, wrap), {}
        # The state goes from dose to dose: a dose curve is one training, seen several times.
        for first, last in zip((0, *doses), doses, strict=False):
            state = imitate(settings, state=state, first=first, last=last)
            by_dose[last] = setup.accuracy(shapes, shapes.student, state[0], scale=scale)
        numbers = {}
        if measure:
            of_teachers = {"teacher_starts": teachers.starts, "settings": settings, **shown}
            numbers = predicted(setup, shapes, starts=starts, students=state[0], **of_teachers)
        # Of a chunk that was filled up, only the first `count` students are rows.
        rows += rows_of(chunk[:count], teachers, by_dose=by_dose, numbers=numbers)
    return [row | {"dataset": setup.data.name} for row in rows]


def predicted(
    setup: Setup, shapes: Grid, *, starts: Params, students: Params, **more: Any
) -> dict[str, np.ndarray]:
    """All numbers of `mnist_mlp.predictors`, for every student of a stack.

    Args:
        setup: of the run.
        shapes: of students and teachers.
        starts: of the students.
        students: trained.
        more: of `predictors.before` and `predictors.after`.
    """
    numbers = predictors.before(shapes, setup.data, students=starts, **more)
    numbers |= predictors.after(shapes, setup.data, starts=starts, students=students, **more)
    return {name: np.asarray(values, float) for name, values in numbers.items()}


def rows_of(
    students: Sequence[Student],
    teachers: Teachers,
    *,
    by_dose: dict[int, list[float]],
    numbers: dict[str, np.ndarray],
) -> list[Row]:
    """A row for every student and dose.

    Args:
        students: the first ones of a stack.
        teachers: numbered by `settings.teacher`.
        by_dose: epochs -> accuracy of every student of the stack.
        numbers: of `predicted`.
    """
    return [
        {
            **student.columns,
            "epochs": dose,
            "accuracy": accuracies[i],
            "teacher_accuracy": teachers.accuracy[int(student.settings.teacher)],
            **{name: float(f"{values[i]:.6g}") for name, values in numbers.items()},
        }
        for i, student in enumerate(students)
        for dose, accuracies in by_dose.items()
    ]
