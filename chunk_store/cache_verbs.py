"""`nopull cache`: what the store of this machine holds. Prints; the counting is `census`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from chunk_store.census import take_census
from chunk_store.place import default_root


@click.group()
def cache() -> None:
    """Look at the store that all images, mounts and runs of this machine share.

    \b
    Example:
      nopull cache ls
    """


@cache.command("ls")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where state and cache live [default: $NOPULL_ROOT, else /var/lib/nopull for root, "
    "~/.cache/nopull for others].",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
def list_windows(root: Path | None, as_json: bool) -> None:
    """Show how many windows are local and what they occupy.

    "complete" windows are known to be on the disk; "recent" ones were filled since the last checkpoint (every
    half minute, and when a mount ends) or are being filled now.

    \b
    Examples:
      nopull cache ls
      nopull cache ls --json | jq .disk_bytes
    """
    place = default_root() if root is None else root.absolute()
    census = take_census(place)
    if as_json:
        click.echo(json.dumps({"root": str(place), **dataclasses.asdict(census)}))
        return
    click.echo(f"{place}")
    rows = [
        ("complete", census.complete, census.complete_bytes),
        ("recent", census.unrecorded, census.unrecorded_bytes),
        ("empty", census.empty, 0),
    ]
    for name, count, size in rows:
        click.echo(f"  {name:<9} {count:>7} windows  {_human(size):>10}")
    click.echo(f"  on disk   {'':>7}          {_human(census.disk_bytes):>10}")
    if census.foreign:
        click.echo(f"  {census.foreign} entries are not windows", err=True)


def _human(size: int) -> str:
    amount = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
