"""Directories on the command line; the option that says where state and cache live."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from chunk_store.place import default_root

Command = TypeVar("Command", bound=Callable[..., Any])


class Directory(click.Path):
    """A directory, which need not exist. Empty, as a shell's unset variable is, would be the current one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("it is an empty word", param, ctx)
        return super().convert(value, param, ctx)


def root_option(command: Command) -> Command:
    """Add `--root DIR`; the command gets *root*, an absolute path."""

    def absolute(_: click.Context, __: click.Parameter, given: Path | None) -> Path:
        return default_root() if given is None else given.absolute()

    return click.option(
        "--root",
        type=Directory(),
        callback=absolute,
        metavar="DIR",
        help="Where state and cache live [default: $NOPULL_ROOT, else /var/lib/nopull for root, "
        "~/.cache/nopull for others].",
    )(command)
