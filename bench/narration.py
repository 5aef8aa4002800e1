"""What a long measurement tells while it works: bars on a terminal, plain lines elsewhere.

Not the result: that is `bench.result_table`. Lines go to standard error, so that output can be piped.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import IO, Protocol


class Narrator(Protocol):
    """Says which step is under way and how many starts are done."""

    def step(self, text: str) -> contextlib.AbstractContextManager[None]:
        """Show *text* while the block runs, and how long it took after it."""

    def say(self, text: str) -> None:
        """Show one line."""

    def count(self, text: str, total: int) -> contextlib.AbstractContextManager[Counter]:
        """Show that *total* things follow; each call of the counter's `done` says that one is done."""


class Counter(Protocol):
    """Counts things done."""

    def done(self, text: str) -> None:
        """One more is done; *text* says what it was."""


class PlainNarrator:
    """One line per step and per thing counted."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        self.say(f"{text} …")
        begun = time.monotonic()
        yield
        self.say(f"{text}: {time.monotonic() - begun:.1f} s")

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    @contextlib.contextmanager
    def count(self, text: str, total: int) -> Iterator[Counter]:
        yield _PlainCounter(self, text, total)


class _PlainCounter:
    def __init__(self, narrator: PlainNarrator, text: str, total: int) -> None:
        self._narrator = narrator
        self._text = text
        self._total = total
        self._number = 0

    def done(self, text: str) -> None:
        self._number += 1
        self._narrator.say(f"{self._text} {self._number}/{self._total}: {text}")


class BarNarrator:
    """A spinner with the time for a step, a bar for things counted."""

    def __init__(self, out: IO[str]) -> None:
        from rich.console import Console

        self._console = Console(file=out, highlight=False)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        begun = time.monotonic()
        with self._console.status(text):
            yield
        self._console.print(f"{text}: {time.monotonic() - begun:.1f} s")

    def say(self, text: str) -> None:
        self._console.print(text)

    @contextlib.contextmanager
    def count(self, text: str, total: int) -> Iterator[Counter]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(text, total=total)

            class Advance:
                def done(self, text: str) -> None:
                    progress.console.print(f"  {text}")
                    progress.advance(task)

            yield Advance()


def choose_narrator(out: IO[str] = sys.stderr) -> Narrator:
    """Return bars if *out* is a terminal, else lines."""
    return BarNarrator(out) if out.isatty() else PlainNarrator(out)
