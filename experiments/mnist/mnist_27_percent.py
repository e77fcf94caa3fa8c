"""Why does a public page report 27 % where the official recipe gives 54 %?

The page ("Comments & Extensions of Subliminal Learning") names squared error and 20 models, but
neither its initialisation nor its pixel scale. The full factorial: initialisation (official N(0,
1/fan_in) with zero biases, PyTorch's default), pixels (digits and noise in [-1, 1], both in [0, 1],
digits in [0, 1] under noise in [-1, 1]), imitation by KL or squared error, Adam or gradient descent
with momentum, batches of 1024 or 256 at equal epochs. All else is the official recipe; accuracy is
that on the test digits.

A first run had the first two levels of the pixels only: it rescaled the noise with the digits. Its
cell of PyTorch's initialisation, [0, 1] and squared error was predicted at .27 and gave .11. The
third level is what a torchvision loader without normalisation gives beside the recipe's own noise,
and the cell that a probe outside the project saw at .28 ± .03.

Prediction, written before the run of three levels: the probe's cell (PyTorch's initialisation,
digits in [0, 1] under noise in [-1, 1], squared error, Adam, batches of 1024) gives .27.

Criteria: the probe's cell, over its own larger number of seeds, lies within .05 of .271
(equivalence), and its cross-model twin is at chance (equivalence within a fifth of the cell's
gain); the same of the first run's cell, both in [0, 1]; the official cell's interval reaches .50 to
.60. The answer is "confirmed" if the probe's cell holds and no other cell at batches of 1024 with
Adam does. All cells whose interval covers .271 are named.

Main effects, paired by seed, Holm over all of them: over the settings of the other factors in which
at least one of the two cells is above chance (Holm over all cells). Two dead cells have no
difference to show and only dilute one. The choice looks at the same rows, so these effects have no
criterion.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from experiments.findings import drawing, statistics
from experiments.findings.claims import Claim, Figure, Findings, say
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
BETWEEN_0_AND_1: Scale = (0.5, 0.5)
SCALES: dict[str, tuple[Scale, Scale]] = {  # of the digits, of the noise
    "[-1, 1]": (AS_IS, AS_IS),
    "[0, 1]": (BETWEEN_0_AND_1, BETWEEN_0_AND_1),
    "[0, 1], noise [-1, 1]": (BETWEEN_0_AND_1, AS_IS),
}
FACTORS = {
    "init": ("official", "PyTorch"),
    "pixels": tuple(SCALES),
    "loss": ("KL", "squared error"),
    "optimiser": ("Adam", "momentum"),
    "batch": ("1024", "256"),
}
CANDIDATE = {"init": "PyTorch", "pixels": "[0, 1]", "loss": "squared error", "optimiser": "Adam"}
PROBE = CANDIDATE | {"pixels": "[0, 1], noise [-1, 1]"}
OFFICIAL = {name: values[0] for name, values in FACTORS.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(flags.Config):
    """The official recipe; batches are this size and a quarter of it."""

    widths: tuple[int, ...] = option((256, 256), "hidden layer widths", minimum=1)
    learning_rate: float = option(3e-4, "Adam step size", minimum=0, maximum=1)
    batch_size: int = option(1024, "images in the larger batch", minimum=8)
    epoch_images: int = option(60_000, "images in an epoch", minimum=1)
    momentum_rate: float = option(0.1, "step size of gradient descent with momentum .9", minimum=0)
    probe_seeds: int = option(32, "seeds of the probe's cell, those of all cells first", minimum=2)


SMOKE = Config(**flags.TOY | {"probe_seeds": 3})


def arms(config: Config) -> dict[str, Arm]:
    """One arm for every seed, pixel scale and batch; then the probe's cell on further seeds."""
    setup = setup_of(config)
    kinds = list(itertools.product(FACTORS["init"], FACTORS["optimiser"]))
    cells = {
        f"seed {seed}, {pixels}, {batch}": Arm(
            columns={"seed": seed},
            measure=functools.partial(
                run, setup, seed, pixels=pixels, batch=batch, kinds=kinds, losses=FACTORS["loss"]
            ),
        )
        for seed in range(config.num_seeds)
        for pixels in FACTORS["pixels"]
        for batch in FACTORS["batch"]
    }
    probe = {
        f"seed {seed}, probe": Arm(
            columns={"seed": seed},
            measure=functools.partial(
                run,
                setup,
                seed,
                pixels=PROBE["pixels"],
                batch=OFFICIAL["batch"],
                kinds=[(PROBE["init"], PROBE["optimiser"])],
                losses=(PROBE["loss"],),
            ),
        )
        for seed in range(config.num_seeds, config.probe_seeds)
    }
    return cells | probe


def run(
    setup: Setup,
    seed: int,
    *,
    pixels: str,
    batch: str,
    kinds: list[tuple[str, str]],
    losses: tuple[str, ...],
) -> list[Row]:
    """Teachers of some initialisations and optimisers, students of some losses, and their twins."""
    config = setup.config
    size = config.batch_size if batch == "1024" else config.batch_size // 4
    shapes = setup.grid(3, batch_size=size)
    own, other = (begun(setup, shapes, seed, name) for name in ("reference", "other"))
    optimisers = {
        "Adam": setup.settings(),
        "momentum": setup.settings(adaptive=0.0, learning_rate=config.momentum_rate),
    }
    of_digits, of_noise = SCALES[pixels]
    teachers = teach(
        setup,
        shapes,
        seed=seed,
        settings=[optimisers[o] for _, o in kinds],
        starts=[own[i] for i, _ in kinds],
        scale=of_digits,
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
        for i, (init, optimiser) in enumerate(kinds)
        for loss in losses
        for name, pool in (("same", own), ("another", other))
    ]
    return distil(
        setup,
        shapes,
        seed=seed,
        students=students,
        teachers=teachers,
        measure=False,
        scale=of_digits,
        scale_of_noise=of_noise,
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


class Effect(NamedTuple):
    """What a factor's second level changes: by seed, over so many live pairs of cells of all."""

    values: np.ndarray
    live: int
    pairs: int


def effects(table: pd.DataFrame, config: Config) -> dict[str, Effect]:
    """Main effect of every level less the first of its factor, over pairs that are not dead.

    Alive is a cell above chance by Holm over all cells.
    """
    same = table[(table["start"] == "same") & (table["seed"] < config.num_seeds)]
    cells = same.astype(dict.fromkeys(FACTORS, str)).pivot(
        index="seed", columns=list(FACTORS), values="accuracy"
    )
    p_values = [transfer.above_chance_p(values) for values in cells.to_numpy().T]
    names = [tuple(map(str, at)) for at in cells.columns.to_list()]
    alive = dict(zip(names, statistics.holm(p_values), strict=True))
    out = {}
    for place, (name, (first, *levels)) in enumerate(FACTORS.items()):
        for level in levels:
            pairs = [
                (at, (*at[:place], level, *at[place + 1 :])) for at in names if at[place] == first
            ]
            pairs = [pair for pair in pairs if pair[1] in alive]  # not a run of before the level
            gaps = [(cells[b] - cells[a]).to_numpy() for a, b in pairs if alive[a] or alive[b]]
            if pairs:
                mean = np.mean(gaps, axis=0) if gaps else np.zeros(len(cells))
                out[f"{name}: {level} less {first}"] = Effect(mean, len(gaps), len(pairs))
    return out


def clear_of_zero(main: dict[str, Effect]) -> dict[str, tuple[float, bool]]:
    """The p value of every effect, and whether it is clear of 0 by Holm over all of them."""
    p_values = [
        float(stats.ttest_1samp(v, 0)[1]) if np.ptp(v) else 1.0 for v, _, _ in main.values()
    ]
    return dict(zip(main, zip(p_values, statistics.holm(p_values), strict=True), strict=True))


def verdict(table: pd.DataFrame, wanted: dict[str, str]) -> tuple[bool, list[str]]:
    """Whether a cell gives the reported number, and which others of Adam and 1024 do."""
    reached = {}
    for init, pixels, loss in itertools.product(*(FACTORS[f] for f in ("init", "pixels", "loss"))):
        values = cell(table, init=init, pixels=pixels, loss=loss)["accuracy"]
        if len(values):
            shifted = (values - REPORTED).tolist()
            reached[init, pixels, loss] = statistics.equivalent(shifted, REACH)
    mine = (wanted["init"], wanted["pixels"], wanted["loss"])
    return reached[mine], [", ".join(k) for k, yes in reached.items() if yes and k != mine]


def near(table: pd.DataFrame) -> list[str]:
    """Every cell, of any optimiser and batch, whose 95 % interval covers the reported number."""
    same = table[table["start"] == "same"].astype(dict.fromkeys(FACTORS, str))
    covering = []
    for names, rows in same.groupby(list(FACTORS), sort=False):
        mean, half = statistics.mean_interval(rows["accuracy"])
        if abs(mean - REPORTED) <= half:
            covering.append(f"{', '.join(names)} ({mean:.3f} ± {half:.3f})")
    return covering


def findings(table: pd.DataFrame, config: Config) -> Findings:
    """The cells that were named before the runs among all cells, and the docstring's criteria."""
    claim = functools.partial(transfer.claim, table)
    official = cell(table)["accuracy"]
    named = {"PyTorch init, [0, 1], squared error": CANDIDATE}
    if len(cell(table, **PROBE)):
        named = {"probe's cell: PyTorch init, [0, 1], noise [-1, 1], squared error": PROBE} | named
    of_cells = {name: cell_claims(table, name, wanted) for name, wanted in named.items()}
    (main_name, wanted), *_ = named.items()
    _, others = verdict(table, wanted)
    mean, half = statistics.mean_interval(official)
    alone = claim(
        "other cells within .05 of .271", here="; ".join(others) or "none", holds=not others
    )
    covering = near(table)
    both_small = table.query("start == 'same' and pixels == '[0, 1]'").groupby("seed")["accuracy"]
    main = effects(table, config)
    tested = clear_of_zero(main)
    claims = [
        *itertools.chain(*of_cells.values()),
        alone,
        claim("cells whose interval covers .271", here="; ".join(covering) or "none"),
        transfer.claim(
            cell(table),
            "official cell",
            here=official,
            holds=mean + half >= 0.5 and mean - half <= 0.6,
            replication=".537 ± .022",
        ),
        claim(
            "pixels and noise in [0, 1], mean of all cells, less chance",
            here=both_small.mean().to_numpy() - transfer.CHANCE,
        ),
        *effect_claims(table, main, tested),
    ]
    answer = answered(table, wanted, of_cells[main_name][0], alone)
    clear = [clear for name, (_, clear) in tested.items() if name.startswith(("init", "pixels"))]
    figure = Figure(
        name="figure",
        title=f"27 % is PyTorch's initialisation, pixels {wanted['pixels']} and squared error: "
        f"{answer}",
        predicted="That cell gives .27, and no other with Adam and batches of 1024.",
        found=f"It gives {statistics.shown(cell(table, **wanted)['accuracy'])}, the official cell "
        f"{statistics.shown(official)}; other cells within {REACH} of {REPORTED}: "
        f"{'; '.join(others) or 'none'}; {len(covering)} cells have intervals that cover it.",
        follows=say(
            [transfer.unstated(table, all(clear))],
            holds="Initialisation and pixel scale belong into every report of the effect.",
            fails="Not both initialisation and pixel scale are shown to matter.",
            open="Whether initialisation and pixel scale matter belongs into every report.",
        ),
        draw=lambda: plot(table, config),
    )
    return Findings([figure], claims)


def answered(table: pd.DataFrame, wanted: dict[str, str], reaches: Claim, alone: Claim) -> str:
    """Whether a cell is the reported one; "refuted" only where it is shown to be another number."""
    mean, half = statistics.mean_interval(cell(table, **wanted)["accuracy"])
    return say(
        [reaches],
        holds=say([alone], holds="confirmed", fails="not settled", open=""),
        fails="not settled" if abs(mean - REPORTED) <= half else "refuted",
        open="not judged",
    )


def cell_claims(table: pd.DataFrame, name: str, wanted: dict[str, str]) -> list[Claim]:
    """That a cell gives the reported number, and that its twin is at chance."""
    rows = cell(table, **wanted)
    same, twin = (part["accuracy"].to_numpy() for part in (rows, cell(table, "another", **wanted)))
    shown = f"{statistics.shown(same)} ({len(same)} seeds)"
    reached = verdict(table, wanted)[0]
    return [
        transfer.claim(rows, name, here=shown, holds=reached, replication=".271 ± .033"),
        transfer.claim(
            rows,
            f"its twin of another start ({wanted['pixels']})",
            here=f"{statistics.shown(twin)}, {transfer.least(twin, same)}",
            holds=transfer.no_transfer_p(twin, same) < 0.05,
            replication=".093 ± .018",
        ),
    ]


def effect_claims(
    table: pd.DataFrame, main: dict[str, Effect], tested: dict[str, tuple[float, bool]]
) -> list[Claim]:
    """The main effect of every level; none has a criterion."""
    return [
        transfer.claim(
            table,
            f"{name} (p {p:.1g}, Holm over {len(main)}: {'' if clear else 'not '}clear of 0; "
            f"{main[name].live} of {main[name].pairs} pairs live)",
            here=main[name].values,
        )
        for name, (p, clear) in tested.items()
    ]


def plot(table: pd.DataFrame, config: Config):
    """All cells with Adam, by loss and initialisation, against the reported number."""
    figure, panels = drawing.new_figure(1, 2, width=9.5, height=4.2)
    run = set(table["pixels"].astype(str))
    kinds = [k for k in itertools.product(FACTORS["init"], FACTORS["pixels"]) if k[1] in run]
    labels = [f"{init}\n{pixels}".replace(", noise", ",\nnoise") for init, pixels in kinds]
    for axes, batch in zip(panels, FACTORS["batch"], strict=True):
        for offset, loss in ((-0.15, "KL"), (0.15, "squared error")):
            cells = [
                cell(table, init=i, pixels=p, loss=loss, batch=batch)["accuracy"] for i, p in kinds
            ]
            drawing.intervals(axes, np.arange(len(kinds)) + offset, cells, label=loss)
        axes.axhspan(REPORTED - REACH, REPORTED + REACH, color="black", alpha=0.12, linewidth=0)
        transfer.draw_chance(axes)
        axes.set_xticks(range(len(kinds)), labels, fontsize=8)
        axes.set_title(f"batches of {batch}, Adam")
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("test accuracy of the aux student")
    panels[0].text(0.3, REPORTED, "reported", fontsize=8, va="center")
    panels[1].legend()
    return figure
