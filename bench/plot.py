"""A result as a picture: one bar per contestant and link, every run a dot, the floor a line."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.errors import BenchError
from bench.result import NOPULL, Result
from bench.result_table import floors

COLOURS = {NOPULL: "#2a7f62"}
OTHERS = "#9aa0a6"
FLOOR = "#b3541e"


def _label(result: Result, link: str, contestant: str) -> str:
    runs = result.of(link, contestant)
    received = statistics.median(run.wire_bytes or run.logged_bytes for run in runs) if runs else 0
    return f"{contestant}\n{received / 1e6:.0f} MB received"


def draw(result: Result, target: Path) -> None:
    """Write the picture; the name's ending decides the form (.png, .svg).

    Raises:
        BenchError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise BenchError(f"drawing {target}: no matplotlib; install nopull's bench extra") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    links, contestants = result.links(), result.contestants()
    right = len(contestants) + 0.2  # room for the names of the floors
    figure, axes = pyplot.subplots(
        1, len(links), figsize=(4.2 * len(links), 3.6), sharey=False, squeeze=False, layout="constrained"
    )
    for axis, link in zip(axes[0], links, strict=True):
        for place, contestant in enumerate(contestants):
            seconds = [run.seconds for run in result.of(link, contestant)]
            median = result.median_seconds(link, contestant)
            if median is None:
                continue
            axis.bar(place, median, width=0.6, color=COLOURS.get(contestant, OTHERS))
            axis.plot([place] * len(seconds), seconds, "o", color="black", markersize=3, alpha=0.6)
            above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axis.annotate(f"{median:.2f} s", (place, max(seconds)), **above)
        for name, size in floors(result, link):
            if (floor := result.floor_seconds(link, size)) is not None:
                axis.axhline(floor, linestyle=":", color=FLOOR)
                axis.set_xlim(-0.5, right)
                axis.text(
                    right,
                    floor,
                    f"{name} ÷ rate",
                    color=FLOOR,
                    fontsize=7,
                    ha="right",
                    va="bottom",
                )
        axis.set_title(link)
        axis.set_xticks(range(len(contestants)), [_label(result, link, one) for one in contestants])
        axis.set_ylim(0, 1.2 * max(run.seconds for run in result.runs if run.link == link))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("seconds to ready, cold")
    figure.suptitle(
        f"{result.image.reference}, {result.image.compressed_bytes / 1e6:.0f} MB compressed", fontsize=10
    )
    try:
        figure.savefig(target, dpi=160)
    except (OSError, ValueError) as error:
        raise BenchError(f"drawing {target}: {error}") from error
    finally:
        pyplot.close(figure)
