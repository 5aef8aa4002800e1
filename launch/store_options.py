"""What can be said of the store on the command lines that mount: its limit, and who shares it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from registry_client.reference import Reference, Transport

Function = TypeVar("Function", bound=Callable[..., Any])


def store_options(function: Function) -> Function:
    """Give *function* `cache_size` (bytes, or None) and `isolate`."""
    for option in (
        click.option(
            "--isolate", is_flag=True,
            help="Share what is fetched with mounts of the same repository only, and with those isolated.",
        ),
        click.option(
            "--cache-size", metavar="SIZE", callback=_size,
            help="Keep at most this much of files (500MB, 20GiB, …); what was mounted least recently goes.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def store_root(root: Path, reference: Reference, *, isolate: bool) -> Path:
    """Where the windows of *reference* lie: below *root* for all, or isolated by repository or path."""
    if not isolate:
        return root
    from chunk_store.place import isolated_root

    if reference.transport is Transport.DOCKER:
        return isolated_root(root, f"{reference.host}/{reference.repository}")
    assert reference.path is not None, "local references have a path"
    return isolated_root(root, f"{reference.transport.value}:{reference.path.resolve()}")


def _size(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    from chunk_store.byte_size import byte_size

    return byte_size(text)
