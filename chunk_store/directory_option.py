"""A directory on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class Directory(click.Path):
    """A directory, which need not exist. Empty, as a shell's unset variable is, would be the current one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("it is an empty word", param, ctx)
        return super().convert(value, param, ctx)
