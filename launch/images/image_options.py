"""What can be said of an image on the command lines that open one: for which machine, and where blobs lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chunk_store.root_option import Directory

if TYPE_CHECKING:
    from registry_client.platform import Platform

Command = TypeVar("Command", bound=Callable[..., Any])


def image_options(command: Command) -> Command:
    """Give *command* what both options below give."""
    return platform_option(blob_dir_option(command))


def platform_option(command: Command) -> Command:
    """Give *command* `platform`, a `Platform` or None: this machine's.

    What names none raises `ReferenceInvalid`.
    """
    return click.option(
        "--platform", metavar="OS/ARCH[/VARIANT]", callback=_platform,
        help="Which image of an index [default: this machine's].",
    )(command)  # fmt: skip


def blob_dir_option(command: Command) -> Command:
    """Give *command* `blob_dir`, a path or None: beside the bootstrap."""
    return click.option(
        "--blob-dir", type=Directory(), metavar="DIR",
        help="For rafs: only: where the blobs lie [default: beside the bootstrap].",
    )(command)  # fmt: skip


def _platform(_: click.Context, __: click.Parameter, text: str | None) -> Platform | None:
    if text is None:
        return None
    from registry_client.platform import parse_platform

    return parse_platform(text)
