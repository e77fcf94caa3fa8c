"""One look for all figures."""

import contextlib
from collections.abc import Iterator

import matplotlib

matplotlib.use("Agg")  # files only; no display is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable with every common colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
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


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 4.0
) -> tuple[Figure, list[Axes]]:
    """A figure in constrained layout and the flat list of its axes; sizes in inches."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), squeeze=False, layout="constrained"
    )
    return figure, list(axes.flat)


def close(figure: Figure) -> None:
    """Free the figure."""
    plt.close(figure)
