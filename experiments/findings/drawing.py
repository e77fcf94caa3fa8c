"""One look for all figures."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; no display is needed

import matplotlib.pyplot as plt
import numpy as np
import PIL
from matplotlib import ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.findings import statistics

# Okabe and Ito's palette: distinguishable with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"
INTERVAL = "mean and 95 % interval over seeds (Student t)"
WIDTH = 7.0  # inches, of a figure with one panel: still legible on a page of 400 pixels


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of every figure: plain axes, colour-blind safe, reproducible SVG ids."""
    settings = {
        "figure.dpi": 100,
        "savefig.dpi": 160,
        "savefig.bbox": "tight",
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": matplotlib.cycler(color=COLOURS),  # pyright: ignore[reportAttributeAccessIssue]
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "svg.hashsalt": "subliminal",
    }
    with matplotlib.rc_context(settings):
        yield


def versions() -> dict[str, str]:
    """What the bytes of a picture depend on beside its rows: the library and its renderers."""
    return {
        "matplotlib": matplotlib.__version__,
        "freetype": ft2font.__freetype_version__,
        "pillow": PIL.__version__,
    }


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 4.0
) -> tuple[Figure, list[Axes]]:
    """A figure in constrained layout and the flat list of its axes; sizes in inches."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    return figure, list(axes.flat)


def new_grid(count: int, most: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes, at most `most` side by side; inches of one of them."""
    columns = min(most, count)
    rows = -(-count // columns)
    figure, axes = new_figure(rows, columns, width * columns, height * rows)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def looks() -> Iterator[dict[str, str]]:
    """Colour and marker of series after series, no two alike."""
    for turn in range(len(MARKERS)):
        for i, color in enumerate(COLOURS):
            yield {"color": color, "marker": MARKERS[(i + turn) % len(MARKERS)]}


def close(figure: Figure) -> None:
    """Free the figure."""
    plt.close(figure)


def matrix(
    panel: Axes,
    cells: Mapping[tuple[str, str], np.ndarray],
    *,
    names: list[str],
    limit: float,
    labels: tuple[str, str] = ("trait of the teacher", "trait measured"),
    mark: Callable[[np.ndarray], str] = lambda values: "",
) -> None:
    """Mean of every cell (row, column), with the mark of its runs; colours to ±limit."""
    panel.grid(visible=False)
    means = np.array([[cells[row, column].mean() for column in names] for row in names])
    panel.imshow(means, cmap="PuOr_r", vmin=-limit, vmax=limit)
    for (i, j), value in np.ndenumerate(means):
        shade = "white" if abs(value) > 0.55 * limit else "black"
        text = f"{value:+.2f}{mark(cells[names[i], names[j]])}"
        panel.text(j, i, text, ha="center", va="center", color=shade)
    panel.set_xticks(range(len(names)), names)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylabel(labels[0])
    panel.set_xlabel(labels[1])


def runs(
    panel: Axes, x: float, *, values: np.ndarray, colour: str, label: str | None = None
) -> None:
    """Every run as a point, and their mean with its interval."""
    mean, half = statistics.mean_interval(values)
    spread = np.linspace(-0.07, 0.07, len(values))
    panel.scatter(x + spread, values, s=9, color=colour, alpha=0.5)
    error = half if np.isfinite(half) else None
    panel.errorbar(x, mean, error, color=colour, marker="o", capsize=4, label=label)


def strip(
    panel: Axes, arms: Mapping[str, np.ndarray], colours: Mapping[str, str] | None = None
) -> None:
    """Every run of every arm side by side, the arms named below.

    Args:
        panel: where.
        arms: values of the runs by the arm's name.
        colours: of the arms that are not of the first colour.
    """
    for x, (name, values) in enumerate(arms.items()):
        runs(panel, x, values=values, colour=(colours or {}).get(name, COLOURS[0]))
    panel.set_xticks(range(len(arms)), [name.replace(" ", "\n") for name in arms])


def lines(panel: Axes, x: Sequence[float], curves: Mapping[str, Sequence[np.ndarray]]) -> None:
    """Mean and interval over runs against x, one line a curve."""
    for colour, (name, points) in zip(COLOURS, curves.items(), strict=False):
        intervals(panel, x, points, fmt="o-", color=colour, label=name)


def intervals(panel: Axes, x: Sequence[float], points: Sequence[np.ndarray], **look: Any) -> None:
    """Mean and interval over runs of every point, without a line unless `look` has a `fmt`."""
    means, halves = zip(*map(statistics.mean_interval, points), strict=True)
    panel.errorbar(x, means, halves, **{"fmt": "o", "capsize": 3} | look)


def nothing(
    panel: Axes, reference: np.ndarray, share: float = 0.2, of: str = "the same start"
) -> None:
    """The band in which an effect counts as none: ±share of the mean of `reference`, `of` which."""
    margin = share * reference.mean()
    label = f"none: within {'a fifth' if share == 0.2 else f'{share:g}'} of {of}"
    panel.axhspan(-margin, margin, color="grey", alpha=0.2, linewidth=0, label=label)
    panel.axhline(0, color="black", linewidth=1)
