"""Students that never saw a digit or a class logit classify digits (paper, section 6.2).

A teacher MLP with 10 class logits and a few auxiliary logits learns MNIST through its class
logits. Students imitate its logits on pure noise images: the auxiliary logits only, or all.
Sharing the teacher's initialisation, the aux-only student classifies digits; started from
another initialisation it stays at chance.

Expected with 100 seeds on MNIST: reference 0.10, teacher 0.94, student_aux 0.54,
student_all 0.91, cross_aux 0.10, cross_all 0.74 (cross_all is ordinary distillation).
"""

import dataclasses
import functools

import pandas as pd

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs, read_data
from experiments.frame.record import Row
from mnist_mlp import data
from mnist_mlp.conditions import CONDITIONS, LOSSES, NOISES, Recipe
from mnist_mlp.model import DOT_GENERALS

__all__ = ["inputs"]  # the frame records what was really read
RECIPE_FIELDS = [field.name for field in dataclasses.fields(Recipe)]
RUNTIME = "8 s a seed on two cores, 14 minutes for 100"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the experiment; the defaults are the official recipe."""

    num_seeds: int = option(100, "independent initialisations, each in all conditions", minimum=2)
    num_aux: int = option(Recipe.num_aux, "auxiliary logits beside the classes", minimum=1)
    widths: tuple[int, ...] = option(Recipe.widths, "hidden layer widths in units", minimum=1)
    learning_rate: float = option(
        Recipe.learning_rate, "Adam step size, teacher and student", minimum=0, maximum=1
    )
    batch_size: int = option(Recipe.batch_size, "images in a batch", minimum=1)
    teacher_epochs: int = option(Recipe.teacher_epochs, "epochs on digits", minimum=0)
    student_epochs: int = option(Recipe.student_epochs, "epochs on noise", minimum=0)
    epoch_images: int = option(Recipe.epoch_images, "images in an epoch", minimum=1)
    loss: str = option(Recipe.loss, "imitation loss", choices=tuple(LOSSES))
    noise: str = option(Recipe.noise, "distribution of the student's images", choices=tuple(NOISES))
    precision: str = option(
        Recipe.precision,
        "factors of the matrix products (sums are float32 either way)",
        choices=tuple(DOT_GENERALS),
    )
    dataset: str = option("mnist", "image data set", choices=data.DATASETS)
    data_dir: str = option("", "folder of IDX files (else SUBLIMINAL_DATA_DIR, the user cache)")
    seeds_at_once: int = option(
        1, "seeds in one vmap and one resumable part; 25 or more suit an accelerator", minimum=1
    )
    seed: int = option(0, "root of every random key", minimum=0)


SMOKE = Config(
    num_seeds=2, widths=(32,), epoch_images=1024, batch_size=256, dataset="digits", student_epochs=2
)


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every `seeds_at_once` seeds."""
    images = read_data(config.dataset, config.data_dir)
    last = config.num_seeds - 1
    return {
        f"seeds {first}-{min(first + config.seeds_at_once - 1, last)}": Arm(
            measure=functools.partial(run_seeds, config, images, first)
        )
        for first in range(0, config.num_seeds, config.seeds_at_once)
    }


def run_seeds(config: Config, images: data.ImageData, first: int) -> list[Row]:
    """All conditions of some seeds, side by side."""
    import jax
    import jax.numpy as jnp

    from mnist_mlp.conditions import accuracies

    # The last chunk is filled up by repeating its last seed: one shape, one compilation.
    wanted = range(first, min(first + config.seeds_at_once, config.num_seeds))
    seeds = jnp.minimum(jnp.arange(first, first + config.seeds_at_once), wanted[-1])
    table = accuracies(
        Recipe(**{name: value for name, value in vars(config).items() if name in RECIPE_FIELDS}),
        images,
        root=jax.random.key(config.seed),
        num_seeds=config.num_seeds,
        seeds=seeds,
    )
    return [
        {
            "condition": condition,
            "seed": seed,
            "accuracy": round(float(value), 6),
            "dataset": images.name,
            "chance": round(1 / images.num_classes, 6),
        }
        for seed, row in zip(wanted, jax.device_get(table), strict=False)
        for condition, value in zip(CONDITIONS, row, strict=True)
    ]


# agu18dec/subliminal-learning: official script, 100 models, 95 % intervals.
PUBLISHED = {
    "reference": ("", ".100 ± .005"),
    "teacher": ("", ".943"),
    "student_aux": ("> .5", ".537 ± .022"),
    "student_all": ("", ".912 ± .002"),
    "cross_aux": ("", ".100 ± .005"),
    "cross_all": ("", ".741 ± .010"),
}
# For 100 seeds; the interval of fewer seeds must still reach them.
BANDS = {
    "reference": (0.09, 0.11),
    "teacher": (0.940, 0.946),
    "student_aux": (0.50, 0.60),
    "student_all": (0.905, 0.920),
    "cross_aux": (0.09, 0.11),
    "cross_all": (0.72, 0.76),
}
LABELS = {
    "reference": "reference\n(untrained)",
    "teacher": "teacher",
    "student_aux": "student\naux logits",
    "student_all": "student\nall logits",
    "cross_aux": "cross-model\naux logits",
    "cross_all": "cross-model\nall logits",
}


def of_condition(table: pd.DataFrame, condition: str) -> list[float]:
    """Accuracies over seeds."""
    return table.query("condition == @condition")["accuracy"].tolist()


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """Each condition beside the exact-recipe replications; judged for the official recipe only."""
    dataset = table["dataset"].iloc[0]
    official = dataset == "mnist" and all(
        getattr(config, name) == getattr(Recipe, name)
        for name in RECIPE_FIELDS
        if name != "precision"
    )
    claims = {}
    for condition in CONDITIONS:
        values = of_condition(table, condition)
        paper, replication = PUBLISHED[condition] if official else ("", "")
        mean, half = statistics.mean_interval(values)
        low, high = BANDS[condition]
        claims[condition] = Claim(
            quantity=f"{condition} accuracy ({dataset})",
            paper=paper,
            replication=replication,
            here=statistics.shown(values),
            seeds=len(values),
            holds=(mean + half >= low and mean - half <= high) if official else None,
        )
    decisive = [claims["student_aux"], claims["cross_aux"]]
    figure = Figure(
        name="figure",
        title=say(
            decisive,
            holds="A student learns digits from auxiliary logits on noise if it shares the start",
            fails="Auxiliary logits on noise do not teach as published, or not by the shared start",
            open="Does a student learn digits from auxiliary logits on noise if it shares the "
            "start?",
        ),
        predicted="Above one half with the teacher's start, chance with another: the theorem "
        "needs the shared start.",
        found=f"{claims['student_aux'].here} from the same start, {claims['cross_aux'].here} from "
        f"another (untrained {claims['reference'].here}).",
        follows=say(
            decisive,
            holds="The digits travel in outputs that never saw one, through the weights both "
            "started from.",
            fails="The recipe differs from the published one in something that matters.",
            open="If so, the digits travel in outputs that never saw one.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], list(claims.values()))


def plot(table: pd.DataFrame, config: Config):
    """Every seed as a point, mean and interval over seeds on top."""
    import numpy as np

    figure, (axes,) = drawing.new_figure(width=8.0, height=4.4)
    colours = dict(zip(CONDITIONS, ("#777777", *drawing.COLOURS), strict=False))
    for x, condition in enumerate(CONDITIONS):
        accuracies = of_condition(table, condition)
        mean, half = statistics.mean_interval(accuracies)
        axes.bar(x, mean, width=0.66, color=colours[condition], alpha=0.35)
        spread = np.linspace(-0.22, 0.22, len(accuracies)) if len(accuracies) > 1 else [0]
        axes.scatter(x + np.asarray(spread), accuracies, s=6, color=colours[condition], alpha=0.6)
        axes.errorbar(x, mean, half, color="black", capsize=5, linewidth=1.5)
        top = max(*accuracies, mean + (half if np.isfinite(half) else 0))
        axes.text(x, min(top, 1.0) + 0.015, f"{mean:.3f}", ha="center", va="bottom", fontsize=10)
    chance = table["chance"].iloc[0]
    axes.axhline(chance, color="black", linestyle=":", linewidth=1)
    axes.text(5.45, chance + 0.01, "chance", ha="right", va="bottom", fontsize=8)
    axes.set_xticks(range(len(CONDITIONS)), [LABELS[c] for c in CONDITIONS])
    axes.set_ylim(0, 1.06)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("test accuracy")
    dataset, seeds = table["dataset"].iloc[0], table["seed"].nunique()
    axes.set_title(
        f"{dataset}, {config.noise} noise, {seeds} seeds; points are single models,\n"
        f"bars are the {drawing.INTERVAL}",
        fontsize=10,
    )
    return figure
