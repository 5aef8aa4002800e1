"""`nopull cache`: what the store of this machine holds, whether it is right, and how to make it smaller.

Prints; the work is done by `census`, `verify` and `sweep`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chunk_store.byte_size import byte_size, human_size
from chunk_store.census import Census, take_census
from chunk_store.place import stores
from chunk_store.root_option import root_option
from rafs.counted import counted
from rafs.printable import printable

if TYPE_CHECKING:
    from chunk_store.sweep import Freed
    from chunk_store.verify import Verification

Command = TypeVar("Command", bound=Callable[..., Any])


def _place_options(command: Command) -> Command:
    """Add `--root DIR` and `--json`."""
    as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
    return root_option(as_json(command))


@click.group()
def cache() -> None:
    """Look at the store that all images, mounts and runs of this machine share.

    \b
    Example:
      nopull cache ls
      nopull cache verify
      nopull cache gc --size 20GB
    """


@cache.command("ls")
@_place_options
def list_windows(root: Path, as_json: bool) -> None:
    """Show how many windows are local and what they occupy.

    "complete" windows are known to be on the disk; "recent" ones were filled since the last checkpoint (every
    half minute, and when a mount ends) or are being filled now.

    \b
    Examples:
      nopull cache ls
      nopull cache ls --json | jq .disk_bytes
    """
    found = [(place, take_census(place)) for place in stores(root)]
    if as_json:
        _print_json(found)
        return
    for place, census in found:
        _print_census(place, census)


def _print_census(place: Path, census: Census) -> None:
    click.echo(printable(f"{place}"))
    rows = [
        ("complete", census.complete, census.complete_bytes),
        ("recent", census.unrecorded, census.unrecorded_bytes),
        ("empty", census.empty, 0),
    ]
    for name, count, size in rows:
        click.echo(f"  {name:<9} {count:>7} windows  {human_size(size):>10}")
    click.echo(f"  on disk   {'':>7}          {human_size(census.disk_bytes):>10}")
    if census.foreign:
        click.echo(f"  {counted(census.foreign, 'entry', 'entries')} of another kind", err=True)


@cache.command("verify")
@click.option(
    "--rate", type=byte_size, metavar="SIZE",
    help="Read at most this much per second (20MB, …): a scrub beside running programs.",
)
@_place_options
def verify_windows(rate: int | None, root: Path, as_json: bool) -> None:
    """Read every window again; drop those that are not what was written.

    A dropped window is fetched again when somebody reads it; mounts may stay, also those that hold it. What
    the kernel has cached of a wrong window before is served until that memory is given up. Windows that were
    filled since the last checkpoint, and partial ones, cannot be checked yet, and are counted. Ends with 1 if
    a wrong window was being written and left alone.

    \b
    Examples:
      nopull cache verify
      nopull cache verify --rate 20MB
      nopull cache verify --json | jq .dropped
    """
    from chunk_store.errors import WindowsWrong
    from chunk_store.verify import verify

    results: list[tuple[Path, Verification]] = []
    for place in stores(root):
        with _opened(place):
            results.append((place, verify(place, rate=rate)))
    if as_json:
        _print_json(results)
    else:
        for place, found in results:
            _print_verification(place, found)
    held = sum(len(found.held) for _, found in results)
    if held:
        raise WindowsWrong(f"{counted(held, 'wrong window')} being written")


def _print_verification(place: Path, found: Verification) -> None:
    click.echo(printable(f"{place}"))
    click.echo(f"  right     {found.right:>7} windows  {human_size(found.right_bytes):>10}")
    click.echo(f"  dropped   {len(found.dropped):>7} windows")
    if found.emptied:
        click.echo(f"  emptied   {len(found.emptied):>7} windows; a mount or a reader holds them")
    click.echo(f"  unchecked {found.unrecorded + found.partial:>7} windows: recent or partial")
    for window_id in found.held:
        click.echo(f"  wrong, but being written: {window_id}", err=True)
    if found.foreign:
        click.echo(f"  {counted(found.foreign, 'entry', 'entries')} of another kind", err=True)


def _days(text: str) -> float:
    """To be the `type` of an option; neither `nan` nor `inf` is a number of days."""
    with suppress(ValueError):
        days = float(text)
        if 0 <= days < math.inf:
            return days
    raise click.BadParameter(f"{text!r} is not a number of days")


@cache.command("gc")
@click.option(
    "--size", type=byte_size, metavar="SIZE",
    help="Keep at most this much of each store (500MB, …); what was mounted least recently goes first.",
)
@click.option(
    "--unused", "unused_days", type=_days, metavar="DAYS",
    help="Drop what was not mounted for this many days.",
)
@click.option("--all", "everything", is_flag=True, help="Drop all that is not in use.")
@_place_options
def collect(
    size: int | None, unused_days: float | None, everything: bool, root: Path, as_json: bool
) -> None:
    """Free what nobody needs, and say what was freed.

    Without options these are leftovers: empty files, and windows that were cut. What a mount, a reader or a
    running fill holds is never touched.

    \b
    Examples:
      nopull cache gc
      nopull cache gc --unused 30
      nopull cache gc --size 20GB --json | jq .freed_bytes
    """
    from chunk_store.sweep import sweep

    results: list[tuple[Path, Freed]] = []
    for place in stores(root):
        with _opened(place):
            freed = sweep(place, size=size, unused_days=unused_days, everything=everything)
            results.append((place, freed))
    if as_json:
        _print_json(results)
        return
    for place, freed in results:
        _print_freed(place, freed)


def _print_freed(place: Path, freed: Freed) -> None:
    click.echo(printable(f"{place}"))
    click.echo(f"  freed     {freed.windows:>7} windows  {human_size(freed.freed_bytes):>10}")
    click.echo(f"  left      {freed.windows_left:>7} windows  {human_size(freed.bytes_left):>10}")
    if freed.held:
        click.echo(f"  in use    {freed.held:>7} windows stayed for that")
    if freed.empty:
        click.echo(f"  removed   {freed.empty:>7} empty files")
    if freed.foreign:
        click.echo(f"  {counted(freed.foreign, 'entry', 'entries')} of another kind", err=True)


def _print_json(results: Sequence[tuple[Path, Census | Verification | Freed]]) -> None:
    """One object: the root's store, and in `isolated` a list of the others."""
    objects = [{"root": str(place), **dataclasses.asdict(found)} for place, found in results]
    click.echo(json.dumps({**objects[0], "isolated": objects[1:]}))


@contextmanager
def _opened(root: Path) -> Iterator[None]:
    """The store below *root* opened, which checks it after an unclean boot. One that is not there is not
    made.
    """
    if not root.is_dir():
        yield
        return
    from chunk_store.boot import current_boot, open_store

    fd, _ = open_store(root, current_boot())
    try:
        yield
    finally:
        os.close(fd)
