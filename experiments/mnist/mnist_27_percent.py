"""Why does a public page report 27 % where the official recipe gives 54 %?

The page ("Comments & Extensions of Subliminal Learning") names squared error and 20 models, but
neither its initialisation nor its pixel scale. The full factorial: initialisation (official N(0,
1/fan_in) with zero biases, PyTorch's default), pixels and noise in [-1, 1] or [0, 1], imitation by
KL or squared error, Adam or gradient descent with momentum, batches of 1024 or 256 at equal
epochs. All else is the official recipe; accuracy is that on the test digits.

Prediction, written before the run: the cell of PyTorch's initialisation, pixels in [0, 1], squared
error, Adam and batches of 1024 gives .27; a probe outside the project saw .28 ± .03, and squared
error alone *raises* the accuracy.

Criteria: that cell lies within .05 of .271 (equivalence), and its cross-model twin is at chance
(equivalence within a fifth of the cell's gain); the official cell's interval reaches .50 to .60.
Main effects: the mean over the other factors, paired by seed, Holm over the five factors. The
answer is "confirmed" if the cell holds and no other cell at batches of 1024 with Adam does.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pandas as pd
from scipy import stats

from experiments.findings import drawing, statistics
from experiments.findings.claims import Figure, Findings, say
from experiments.frame.arms import Arm
from experiments.frame.cli import option
from experiments.frame.images import inputs
from experiments.frame.record import Row
from experiments.mnist.kit import flags, transfer
from experiments.mnist.kit.training import Setup, Student, distil, setup_of, teach
from mnist_mlp import starts
from mnist_mlp.grid import AS_IS, Scale

__all__ = ["inputs"]
RUNTIME = "about 30 minutes on two cores"
REPORTED, REACH = 0.271, 0.05
SCALES: dict[str, Scale] = {"[-1, 1]": AS_IS, "[0, 1]": (0.5, 0.5)}
FACTORS = {
    "init": ("official", "PyTorch"),
    "pixels": tuple(SCALES),
    "loss": ("KL", "squared error"),
    "optimiser": ("Adam", "momentum"),
    "batch": ("1024", "256"),
}
CANDIDATE = {"init": "PyTorch", "pixels": "[0, 1]", "loss": "squared error", "optimiser": "Adam"}
OFFICIAL = {name: values[0] for name, values in FACTORS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """The official recipe; batches are this size and a quarter of it."""

    widths: tuple[int, ...] = option((256, 256), "hidden layer widths", minimum=1)
    learning_rate: float = option(3e-4, "Adam step size", minimum=0, maximum=1)
    batch_size: int = option(1024, "images in the larger batch", minimum=8)
    epoch_images: int = option(60_000, "images in an epoch", minimum=1)
    momentum_rate: float = option(0.1, "step size of gradient descent with momentum .9", minimum=0)


SMOKE = Config(**flags.TOY)


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed, pixel scale and batch."""
    setup = setup_of(config)
    return {
        f"seed {seed}, {pixels}, {batch}": Arm(
            columns={"seed": seed}, measure=functools.partial(run, setup, seed, pixels, batch)
        )
        for seed in range(config.num_seeds)
        for pixels in FACTORS["pixels"]
        for batch in FACTORS["batch"]
    }


def run(setup: Setup, seed: int, pixels: str, batch: str) -> list[Row]:
    """Teachers of both initialisations and optimisers, students of both losses, and their twins."""
    config = setup.config
    size = config.batch_size if batch == "1024" else config.batch_size // 4
    shapes = setup.grid(3, batch_size=size)
    own, other = (begun(setup, shapes, seed, name) for name in ("reference", "other"))
    optimisers = {
        "Adam": setup.settings(),
        "momentum": setup.settings(adaptive=0.0, learning_rate=config.momentum_rate),
    }
    both = list(itertools.product(FACTORS["init"], FACTORS["optimiser"]))
    scale = SCALES[pixels]
    teachers = teach(
        setup,
        shapes,
        seed=seed,
        settings=[optimisers[o] for _, o in both],
        starts=[own[i] for i, _ in both],
        scale=scale,
    )
    students = [
        Student(
            {
                "start": name,
                "init": init,
                "pixels": pixels,
                "loss": loss,
                "optimiser": optimiser,
                "batch": batch,
            },
            optimisers[optimiser]._replace(teacher=i, squared=float(loss == "squared error")),
            pool[init],
        )
        for i, (init, optimiser) in enumerate(both)
        for loss in FACTORS["loss"]
        for name, pool in (("same", own), ("another", other))
    ]
    return distil(
        setup, shapes, seed=seed, students=students, teachers=teachers, measure=False, scale=scale
    )


def begun(setup: Setup, shapes, seed: int, name: str) -> dict[str, object]:
    """A start in both initialisations."""
    start = setup.draw(shapes, seed, name)
    return {"official": start, "PyTorch": starts.pytorch_default(setup.key(seed, name), start)}


def cell(table: pd.DataFrame, start: str = "same", **wanted: str) -> pd.DataFrame:
    """Rows of one cell; factors that are not named have their official value."""
    for name, value in (OFFICIAL | wanted | {"start": start}).items():
        table = table[table[name].astype(str) == value]
    return table.sort_values("seed")


def effects(table: pd.DataFrame) -> dict[str, list[float]]:
    """Main effect of each factor by seed: mean of its second value less that of its first."""
    same = table[table["start"] == "same"]
    out = {}
    for name, (first, second) in FACTORS.items():
        wide = same.assign(**{name: same[name].astype(str)}).pivot_table(
            values="accuracy", index="seed", columns=name
        )
        out[name] = (wide[second] - wide[first]).tolist()
    return out


def clear_of_zero(main: dict[str, list[float]]) -> dict[str, tuple[float, bool]]:
    """The p value of every effect, and whether it is clear of 0 by Holm over all of them."""
    p_values = [float(stats.ttest_1samp(v, 0)[1]) if np.ptp(v) else 1.0 for v in main.values()]
    return dict(zip(main, zip(p_values, statistics.holm(p_values), strict=True), strict=True))


def verdict(table: pd.DataFrame) -> tuple[bool, list[str]]:
    """Whether the candidate gives the reported number, and which others of its kind do."""
    reached = {}
    for init, pixels, loss in itertools.product(*(FACTORS[f] for f in ("init", "pixels", "loss"))):
        values = cell(table, init=init, pixels=pixels, loss=loss)["accuracy"]
        shifted = (values - REPORTED).tolist()
        reached[init, pixels, loss] = statistics.equivalent(shifted, REACH)
    mine = (CANDIDATE["init"], CANDIDATE["pixels"], CANDIDATE["loss"])
    return reached[mine], [", ".join(k) for k, yes in reached.items() if yes and k != mine]


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The candidate among all cells, and the criteria of the docstring."""
    claim = functools.partial(transfer.claim, table)
    candidate, official = cell(table, **CANDIDATE)["accuracy"], cell(table)["accuracy"]
    twin = cell(table, "another", **CANDIDATE)["accuracy"]
    reached, others = verdict(table)
    mean, half = statistics.mean_interval(official)
    reaches = claim(
        "PyTorch init, [0, 1], squared error",
        here=candidate,
        holds=reached,
        replication=".271 ± .033",
    )
    alone = claim(
        "other cells within .05 of .271", here="; ".join(others) or "none", holds=not others
    )
    claims = [
        reaches,
        claim(
            "its twin of another start",
            here=twin,
            holds=transfer.no_transfer_p(twin, candidate.mean()) < 0.05,
            replication=".093 ± .018",
        ),
        alone,
        claim(
            "official cell",
            here=official,
            holds=mean + half >= 0.5 and mean - half <= 0.6,
            replication=".537 ± .022",
        ),
    ]
    main = effects(table)
    tested = clear_of_zero(main)
    for name, (p, clear) in tested.items():
        first, second = FACTORS[name]
        mark = "clear of 0" if clear else "not clear of 0"
        quantity = f"{name}: {second} less {first} (p {p:.1g}, Holm over {len(main)}: {mark})"
        claims.append(claim(quantity, here=main[name]))
    both_matter = transfer.unstated(table, tested["init"][1] and tested["pixels"][1])
    answer = say(
        [reaches],
        holds=say([alone], holds="confirmed", fails="not settled", open=""),
        fails="refuted",
        open="not judged",
    )
    figure = Figure(
        name="figure",
        title=f"27 % is PyTorch's initialisation with pixels in [0, 1] and squared error: {answer}",
        predicted="That cell gives .27, and no other with Adam and batches of 1024.",
        found=f"It gives {statistics.shown(candidate)}, the official cell "
        f"{statistics.shown(official)}; other cells within {REACH} of {REPORTED}: "
        f"{'; '.join(others) or 'none'}.",
        follows=say(
            [both_matter],
            holds="Initialisation and pixel scale belong into every report of the effect.",
            fails="Initialisation and pixel scale are not shown to matter.",
            open="Whether initialisation and pixel scale matter belongs into every report.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def plot(table: pd.DataFrame, config: Config):
    """All cells with Adam, by loss and initialisation, against the reported number."""
    figure, panels = drawing.new_figure(1, 2, width=9.5, height=4.2)
    kinds = list(itertools.product(FACTORS["init"], FACTORS["pixels"]))
    for axes, batch in zip(panels, FACTORS["batch"], strict=True):
        for offset, loss in ((-0.15, "KL"), (0.15, "squared error")):
            cells = [
                cell(table, init=i, pixels=p, loss=loss, batch=batch)["accuracy"] for i, p in kinds
            ]
            drawing.intervals(axes, np.arange(len(kinds)) + offset, cells, label=loss)
        axes.axhspan(REPORTED - REACH, REPORTED + REACH, color="black", alpha=0.12, linewidth=0)
        transfer.draw_chance(axes)
        axes.set_xticks(range(len(kinds)), [f"{i}\n{p}" for i, p in kinds], fontsize=9)
        axes.set_title(f"batches of {batch}, Adam")
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("test accuracy of the aux student")
    panels[0].text(0.3, REPORTED, "reported", fontsize=8, va="center")
    panels[1].legend()
    return figure
