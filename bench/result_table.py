"""A result as a table for people: with rules and colour on a terminal, plain columns elsewhere."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import IO

from bench.result import NOPULL, Result, Run

HEADINGS = (
    "link",
    "",
    "ready, s",
    "least–most",
    "demanded, MB",
    "background, MB",
    "requests",
    "touched",
    "received, MB",
)


def rows(result: Result) -> list[tuple[str, ...]]:
    """Return a row per link and contestant, medians throughout, and the floor of each link of known rate."""
    return [row for link in result.links() for row in _rows_of(result, link)]


def _rows_of(result: Result, link: str) -> Iterator[tuple[str, ...]]:
    for contestant in result.contestants():
        if runs := result.of(link, contestant):
            yield (link, contestant, *_cells(runs))
    for name, size in floors(result, link):
        seconds = result.floor_seconds(link, size)
        if seconds is not None:
            yield (link, f"floor: {name} ÷ rate", f"{seconds:.2f}", "", _mb(size), "", "", "", "")


def floors(result: Result, link: str) -> Iterator[tuple[str, int]]:
    """Yield what has to travel at least, by name and bytes: what nopull demanded, and the whole image."""
    share = result.demanded_share(link)
    if share is not None:
        yield "demanded", round(share * result.image.compressed_bytes)
    yield "whole image", result.image.compressed_bytes


def _cells(runs: Sequence[Run]) -> tuple[str, ...]:
    seconds = [run.seconds for run in runs]
    received = statistics.median(run.wire_bytes or run.logged_bytes for run in runs)
    requests = statistics.median(run.logged_requests for run in runs)
    counted = [run.counters for run in runs if run.counters is not None]
    demanded, background, touched = "", "", ""
    if counted:
        demanded = _mb(statistics.median(one.demanded_bytes for one in counted))
        background = _mb(statistics.median(one.background.bytes for one in counted))
        touched = f"{statistics.median(100 * one.touched_bytes / one.image_bytes for one in counted):.0f} %"
    elif all(run.contestant != NOPULL for run in runs):
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
    memory = [run.counters.peak_memory_bytes for run in result.runs if run.counters is not None]
    if memory:
        told.append(f"mount server: at most {max(memory) / 1e6:.0f} MB resident")
    told.append("demanded: what the start waited for or the hot list named; background: what else came")
    told.append("received: counted outside, on the link with its headers, or by the registry on loopback")
    return told


def print_result(result: Result, out: IO[str]) -> None:
    """Print the table and its sentences to *out*."""
    if out.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"{result.image.reference}: {_mb(result.image.compressed_bytes)} MB, cold start")
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if number < 2 else "right")
        for row in rows(result):
            table.add_row(*row, style="bold" if row[1] == NOPULL else None)
        Console(file=out).print(table)
    else:
        lines = [HEADINGS, *rows(result)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
        for line in lines:
            cells = [
                cell.ljust(width) if number < 2 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            out.write("  ".join(cells).rstrip() + "\n")
    for sentence in summary(result):
        out.write(sentence + "\n")


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f}"
