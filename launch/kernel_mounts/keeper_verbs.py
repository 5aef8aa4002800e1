"""`nopull keeper`: run the keeper of a store under a service manager, replace it, end it, look at it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from chunk_store.root_option import root_option
from rafs.counted import counted
from rafs.printable import printable


@click.group()
def keeper() -> None:
    """Look after the processes behind kernel mounts.

    `nopull mount` starts a keeper when the first kernel mount is made, and it ends with the last: none of
    these is needed for that. They are for service managers, and for upgrades while mounts live.

    \b
    Examples:
      nopull keeper status
      nopull keeper restart          # after nopull was upgraded; readers wait, none fails
      nopull keeper unit > /etc/systemd/system/nopull-keeper.service
    """


@keeper.command("run")
@root_option
def run_keeper(root: Path) -> None:
    """Be the keeper of the store, in the foreground, until told to end by SIGTERM.

    Takes the place of one that runs already, and what it holds: readers that wait go on waiting. With a
    service manager's NOTIFY_SOCKET it tells when it is ready and leaves there what readers wait on, so that
    none of them fails if keeper and filler are killed at once.

    \b
    Example:
      nopull keeper run --root /var/lib/nopull
    """
    from launch.kernel_mounts.keeper_service import become_keeper

    become_keeper(root)


@keeper.command("restart")
@root_option
def restart(root: Path) -> None:
    """Have running keepers and their fillers replaced by those of this version of nopull.

    Mounts stay, readers that wait go on waiting, and no read fails.

    \b
    Example:
      nopull keeper restart
    """
    from launch.kernel_mounts.keeper_service import restart_keepers

    for place in (places := restart_keepers(root)):
        click.echo(printable(f"restarted: {place}"))
    if not places:
        click.echo("no keeper runs")


@keeper.command("end")
@click.option("--force", is_flag=True, help="Also if mounts lack data: an error to read from then on.")
@root_option
def end(root: Path, force: bool) -> None:
    """End keepers and fillers. Mounts stay; what they have goes on to be read.

    What they lack is an error from then on, until `nopull ps` or another mount starts a keeper again.

    \b
    Example:
      nopull keeper end
    """
    from launch.kernel_mounts.keeper_service import end_keepers

    for place in (places := end_keepers(root, force=force)):
        click.echo(printable(f"ended: {place}"))
    if not places:
        click.echo("no keeper runs")


@keeper.command("status")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, a keeper each.")
@root_option
def status(root: Path, as_json: bool) -> None:
    """Show what keepers watch, who fills for them, and who waits.

    \b
    Examples:
      nopull keeper status
      nopull keeper status --json | jq '.[].waiting'
    """
    from launch.kernel_mounts.keeper_service import keepers

    found = keepers(root)
    if as_json:
        click.echo(json.dumps([{"store": str(place), **facts} for place, facts in found]))
        return
    if not found:
        click.echo("no keeper runs")
    for place, facts in found:
        counts = facts["counts"]
        filler = "none" if facts["filler"] is None else facts["filler"]
        click.echo(printable(f"{place}: keeper {facts['pid']}, filler {filler}"))
        click.echo(f"  mounts   {len(facts['mounts'])}, over {counted(facts['windows'], 'window')}")
        not_complete = "that is not complete" if facts["watched"] == 1 else "that are not complete"
        click.echo(f"  watched  {counted(facts['watched'], 'window')} {not_complete}")
        waiting = counted(facts["waiting"], "read")
        click.echo(f"  waiting  {waiting} now; {facts['waited_seconds']:.2f} s in all")
        click.echo(f"  asked    {counted(counts['events'], 'time')}: " + ", ".join(
            f"{counts[name]} {name.replace('_', ' ')}" for name in counts if name != "events"
        ))  # fmt: skip
        for line in facts["lines"]:
            click.echo(printable(f"  said     {line}"))


@keeper.command("unit")
@root_option
def unit(root: Path) -> None:
    """Print a unit for systemd that runs the keeper of the store.

    \b
    Example:
      nopull keeper unit > /etc/systemd/system/nopull-keeper.service
      systemctl enable --now nopull-keeper
    """
    from launch.kernel_mounts.keeper_service import unit_text

    click.echo(unit_text(root), nl=False)
