"""A result as a table for people: with rules and colour on a terminal, plain columns elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import IO

from bench.result import NOPULL, NOPULL_FUSE, Result, Run

HEADINGS = ("", "ready s", "range", "demanded", "background", "requests", "touched", "received")


def rows(result: Result, link: str) -> list[tuple[str, ...]]:
    """Return a row per contestant over *link*, medians throughout, and what the link alone would take."""
    found = [
        (contestant, *_cells(runs))
        for contestant in result.contestants()
        if (runs := result.of(link, contestant))
    ]
    for name, size in floors(result, link):
        seconds = result.floor_seconds(link, size)
        if seconds is not None:
            found.append((f"floor: {name}", f"{seconds:.2f}", "", "", "", "", "", _mb(size)))
    return found


def floors(result: Result, link: str) -> Iterator[tuple[str, int]]:
    """Yield what has to travel at least, by name and bytes: what nopull demanded, and the whole image."""
    share = result.demanded_share(link)
    if share is not None:
        yield "demanded", round(share * result.image.compressed_bytes)
    yield "all", result.image.compressed_bytes


def _cells(runs: Sequence[Run]) -> tuple[str, ...]:
    seconds = [run.seconds for run in runs]
    received = statistics.median(run.wire_bytes or run.logged_bytes for run in runs)
    requests = statistics.median(run.logged_requests for run in runs)
    counted = [run.counters for run in runs if run.counters is not None]
    demanded, background, touched = "", "", ""
    if counted:
        demanded = _mb(statistics.median(one.demanded_bytes for one in counted))
        background = _mb(statistics.median(one.background.bytes for one in counted))
        shares = [
            100 * one.touched_bytes / one.image_bytes for one in counted if one.touched_bytes is not None
        ]
        touched = f"{statistics.median(shares):.0f} %" if shares else "–"
    elif all(run.contestant not in (NOPULL, NOPULL_FUSE) for run in runs):
        demanded, background, touched = _mb(received), "–", "100 %"
    return (
        f"{statistics.median(seconds):.2f}",
        f"{min(seconds):.2f}–{max(seconds):.2f}",
        demanded,
        background,
        f"{requests:.0f}",
        touched,
        _mb(received),
    )


def summary(result: Result) -> list[str]:
    """Return the sentences under the table: the ratios, and what the columns count."""
    told = []
    for link in result.links():
        ratio, share = result.ratio(link), result.demanded_share(link)
        if ratio is not None:
            told.append(f"{link}: nopull is ready in {ratio:.2f} of the time of pull and run")
        if share is not None:
            told.append(f"{link}: {100 * share:.0f} % of the compressed image were demanded before ready")
    for contestant in result.contestants():
        memory = [
            run.counters.peak_memory_bytes
            for link in result.links()
            for run in result.of(link, contestant)
            if run.counters is not None
        ]
        if memory:
            told.append(f"{contestant}: a mount's processes together at most {_mb(max(memory))} MB resident")
    told.append("demanded: what the start waited for or the hot list named; background: what else came")
    told.append("floor: so many bytes at the link's rate, and nothing else; all: the whole image")
    told.append("received: counted outside, on the link with its headers, or by the registry on loopback")
    return told


def print_result(result: Result, out: IO[str]) -> None:
    """Print a table per link and the sentences that belong to them to *out*."""
    image = result.image
    out.write(
        f"{image.reference}: {image.layers} layers, {_mb(image.compressed_bytes)} MB; cold starts, MB\n"
    )
    for link in result.links():
        if out.isatty():
            _print_rich(rows(result, link), link, out)
        else:
            _print_plain(rows(result, link), link, out)
    for sentence in summary(result):
        out.write(sentence + "\n")


def _print_rich(cells: Sequence[Sequence[str]], link: str, out: IO[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    # As narrow as it can be: a terminal of 80 columns shows all of it.
    table = Table(title=link, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if number == 0 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*row, style="bold" if row[0] == NOPULL else None)
    Console(file=out).print(table)


def _print_plain(cells: Sequence[Sequence[str]], link: str, out: IO[str]) -> None:
    lines = [(link, *HEADINGS[1:]), *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for name, *values in lines:
        padded = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        out.write("  ".join([name.ljust(widths[0]), *padded]).rstrip() + "\n")


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f}"
