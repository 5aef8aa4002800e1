"""The command-line option that says where state and cache live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from chunk_store.directory_option import Directory
from chunk_store.place import default_root

Command = TypeVar("Command", bound=Callable[..., Any])


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
