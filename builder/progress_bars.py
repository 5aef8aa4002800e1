"""Progress as bars on a terminal. Apart from `progress`, since importing rich takes 50 ms and more."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)


class BarProgress:
    """One bar per step; a finished one stays as a line with its note."""

    def __init__(self, stream: TextIO) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=stream),
        )
        self._lock = threading.Lock()  # the table of tasks only
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, step: str, total: int | None) -> None:
        task = self._bars.add_task(step, total=total, note="")
        with self._lock:
            self._tasks[step] = task

    def advance(self, step: str, count: int) -> None:
        self._bars.advance(self._tasks[step], count)

    def finish(self, step: str, note: str) -> None:
        with self._lock:
            task = self._tasks.pop(step)
        done = self._bars.tasks[self._bars.task_ids.index(task)].completed
        self._bars.update(task, total=done, completed=done, note=note)
