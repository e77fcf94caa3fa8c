"""One look for all figures, and the room that they are drawn for: a page, or a phone."""

import contextlib
import contextvars
import itertools
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only; no display is needed

import matplotlib.pyplot as plt
import numpy as np
import PIL
from matplotlib import ft2font
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.findings import statistics

# Okabe and Ito's palette: distinguishable with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^DvPX"
INTERVAL = "mean and 95 % interval over seeds (Student t)"
WIDTH = 7.0  # inches, of a figure with one panel
PHONE = 3.6  # inches: 346 pixels, what a phone of 390 has between its margins, and some
SMALLER = 0.8  # letters and heights on a phone
ROOM: contextvars.ContextVar[float] = contextvars.ContextVar("room", default=float("inf"))


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """Within it every figure is drawn for a phone: panels stacked, letters kept legible."""
    token = ROOM.set(PHONE)
    try:
        yield
    finally:
        ROOM.reset(token)


def is_narrow() -> bool:
    """Whether figures are drawn for a phone."""
    return ROOM.get() < float("inf")


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of every figure: plain axes, colour-blind safe, reproducible SVG ids."""
    size = SMALLER if is_narrow() else 1.0
    settings = {
        "figure.dpi": 100,
        "savefig.dpi": 160,
        "savefig.bbox": "tight",
        "font.size": 10 * size,
        "axes.titlesize": 11 * size,
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
    """A figure in constrained layout and the flat list of its axes; sizes in inches.

    Where there is less room than `width`, as many panels stand side by side as keep a good half of
    their width, the others below.
    """
    count = rows * columns
    if width > (room := ROOM.get()):
        columns = min(columns, max(1, int(room * columns / (0.55 * width))))
        below = -(-count // columns)
        rows, width, height = below, room, height * SMALLER * below / rows
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    for unused in axes.flat[count:]:
        unused.remove()
    return figure, list(axes.flat[:count])


def new_grid(count: int, most: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many axes, at most `most` side by side; inches of one of them."""
    columns = min(most, count)
    rows = -(-count // columns)
    figure, axes = new_figure(rows, columns, width * columns, height * rows)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def fit(figure: Figure) -> None:
    """Bring a narrow figure's words into its room: none is wider, no two names overlap."""
    if not is_narrow():
        return
    grid = figure.axes[0].get_subplotspec().get_gridspec()  # pyright: ignore[reportOptionalMemberAccess]
    wide, high = 72 * figure.get_size_inches() / (grid.ncols, grid.nrows)  # points, of a panel
    for text in figure.texts:
        wrap(text, 0.9 * wide * grid.ncols)
    for panel in figure.axes:
        titles = (child for child in panel.get_children() if isinstance(child, Text))
        for text in (panel.xaxis.label, *titles):
            wrap(text, 0.85 * wide)
        wrap(panel.yaxis.label, 0.8 * high)
    list_names(figure)
    figure.canvas.draw()  # sets the positions of the names below the panels
    for panel in figure.axes:
        spread_names(panel)


def list_names(figure: Figure) -> None:
    """One name a line, below the panels: beside or within them there is no room.

    A legend within one of several panels stays, since the panels are as large as they were.
    """
    known = [panel.get_legend_handles_labels() for panel in figure.axes]
    handles = {label: handle for pair in known for handle, label in zip(*pair, strict=True)}
    inside = figure.axes[0].get_legend() if len(figure.axes) == 1 else None
    for legend in [*figure.legends, *filter(None, [inside])]:
        names = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        figure.legend([handles[name] for name in names], names, loc="outside lower left")


def wrap(text: Text, points: float) -> None:
    """Break a text anew if a line of it is longer than so many points."""
    letter = 0.55 * float(text.get_fontsize())  # mean width of one
    most = int(points / letter)
    lines = text.get_text().splitlines()
    if max(map(len, lines), default=0) > most:
        text.set_text(textwrap.fill(" ".join(lines), most))


def spread_names(panel: Axes) -> None:
    """Turn the names below a panel upright where they would overlap."""
    names = [name for name in panel.get_xticklabels() if name.get_text()]
    boxes = sorted((name.get_window_extent() for name in names), key=lambda box: box.x0)
    if any(left.x1 > right.x0 for left, right in itertools.pairwise(boxes)):
        panel.tick_params(axis="x", labelrotation=90)


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
    starred: Collection[tuple[str, str]] = (),
    below: Sequence[str] = (),
) -> None:
    """Mean of every cell (row, column), some of them starred; colours to ±limit.

    `below`: further rows, such as controls.
    """
    rows = [*names, *below]
    panel.grid(visible=False)
    means = np.array([[cells[row, column].mean() for column in names] for row in rows])
    panel.imshow(means, cmap="PuOr_r", vmin=-limit, vmax=limit)
    for (i, j), value in np.ndenumerate(means):
        shade = "white" if abs(value) > 0.55 * limit else "black"
        text = f"{value:+.2f}{'*' * ((rows[i], names[j]) in starred)}"
        panel.text(j, i, text, ha="center", va="center", color=shade)
    panel.set_xticks(range(len(names)), names)
    panel.set_yticks(range(len(rows)), rows)
    panel.set_ylabel(labels[0])
    panel.set_xlabel(labels[1])


def runs(
    panel: Axes, x: float, *, values: np.ndarray, colour: str, label: str | None = None
) -> None:
    """Every run as a point, and their mean with its interval; in words that an arm says nothing."""
    if not np.isfinite(values).all():
        look = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 8, "color": "#666666"}
        panel.text(x, 0, " says nothing", **look)
        panel.scatter([x - 0.07, x + 0.07], [0, 0], alpha=0)  # the axes leave room for it
        return
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
