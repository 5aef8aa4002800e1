"""`nopull mount`, `nopull umount` and `nopull ps`: command lines of `server`, `umount` and `mounts`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chunk_store.root_option import root_option
from launch.fuse_mounts.server_options import server_options
from launch.images.image_options import image_options
from launch.store_options import store_options
from rafs.printable import printable
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from launch.mounts import MountRecord, State
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform


def _directory(text: str) -> Path:
    """To be the `type` of an argument. Empty, as a shell's unset variable is, would be the current one."""
    if not text:
        raise click.BadParameter("it is an empty word")
    return Path(text)


@click.command(
    epilog="""\b
Examples:
  nopull mount registry.example/app:1-lazy /mnt
  nopull mount oci:layout:1-lazy /mnt --foreground
  nopull mount rafs:image.boot /mnt --blob-dir blobs
  nopull mount registry.example/app:1-lazy /mnt --driver erofs
  nopull mount registry.example/app:1-lazy /mnt --cache-size 20GB --isolate
  nopull ps
  nopull umount /mnt
"""
)
@click.argument("image")
@click.argument("directory", metavar="DIR", type=_directory)
@click.option("--foreground", is_flag=True, help="Stay until it is unmounted; unmount when interrupted.")
@click.option(
    "--no-background", is_flag=True,
    help="Fetch only what is needed first and what is read; default: also the rest, behind it.",
)
@image_options
@click.option(
    "--shared", is_flag=True,
    help="Through FUSE, by one server for all such mounts of a root: takes least memory for many mounts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the mount's record as one JSON object.")
@store_options
@server_options
@root_option
@registry_options
def mount(
    image: str,
    directory: Path,
    driver: str,
    foreground: bool,
    no_background: bool,
    platform: Platform | None,
    blob_dir: Path | None,
    shared: bool,
    as_json: bool,
    cache_size: int | None,
    isolate: bool,
    metrics_address: tuple[str, int] | None,
    log_format: str,
    root: Path,
    registry: RegistryOptions,
) -> None:
    """Show IMAGE as the read-only directory DIR before its data is here.

    Returns when the mount answers. What is read is fetched first, the rest follows in the background. DIR
    must be an empty directory; a mount of nopull there whose server has died is cleared away. A tag is pinned
    to the digest it has now.

    The kernel shows the image itself where it can (root, Linux 6.18, ext4, xfs or btrfs): it asks only for
    what is absent, and once all is here no process is needed. Else a server of ours does, through FUSE;
    `nopull explain DIR` says which, and why.
    """
    from launch.images.image_request import ImageRequest
    from launch.mount_request import MountRequest
    from launch.mounting import mount_image
    from registry_client.reference import parse_reference

    if shared and (foreground or driver == "erofs"):
        raise click.UsageError("--shared is for mounts through FUSE in the background")

    def show(record: MountRecord) -> None:
        for warning in record.warnings:
            click.echo(printable(f"nopull: warning: {warning}"), err=True)
        if as_json:
            click.echo(json.dumps(record.to_json()))
        else:
            served = f", pid {record.server}" if record.pids else ""
            click.echo(printable(f"mounted {record.pinned} on {record.mountpoint} ({record.driver}{served})"))

    wanted = ImageRequest(
        reference=parse_reference(image),
        options=registry,
        platform=platform,
        blob_dir=blob_dir,
        background=not no_background,
        cache_size=cache_size,
    )
    request = MountRequest(
        image=wanted,
        mountpoint=directory,
        root=root,
        driver=driver,
        isolate=isolate,
        metrics_address=metrics_address,
        log_format=log_format,
        shared=shared,
    )
    mount_image(request, foreground=foreground, on_ready=show)


@click.command(
    epilog="""\b
Examples:
  nopull umount /mnt
  nopull umount --lazy /mnt      # although a shell is still inside
"""
)
@click.argument("directory", metavar="DIR", type=_directory)
@click.option("-l", "--lazy", is_flag=True, help="Free DIR at once; files that are open stay readable.")
@root_option
def umount(directory: Path, lazy: bool, root: Path) -> None:
    """Take away the mount on DIR, and wait until its server has ended.

    What was fetched stays in the cache.
    """
    from launch.umount import unmount

    left = unmount(directory, root, lazy=lazy)
    click.echo(printable(f"unmounted {directory}" + ("" if left is None else f"; {left}")))


@click.command(
    epilog="""\b
Examples:
  nopull ps
  nopull ps --json | jq -r '.[].mountpoint'

\b
States: mounted; detached (unmounted, but open files are still served, or it is
  mounted elsewhere as well); dead (the server is gone; its mount is taken away
  now); gone (nothing was left)
"""
)
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects.")
@root_option
def ps(as_json: bool, root: Path) -> None:
    """List what is mounted, and how much of it is local.

    Mounts whose server is gone are shown once, and cleaned away.
    """
    from launch.containers.containers import remove_stale
    from launch.kernel_mounts.keeper_start import take_up
    from launch.umount import clean

    remove_stale(root)
    for place in take_up(root):
        again = f"nopull: mounts of {place} had no keeper any more; they have one again"
        click.echo(printable(again), err=True)
    rows = [_row(record, state) for record, state in clean(root)]
    if as_json:
        click.echo(json.dumps(rows))
        return
    lines: list[tuple[str, ...]] = [("MOUNTPOINT", "IMAGE", "DRIVER", "PID", "STATE", "LOCAL")]
    for row in rows:
        pid = str(row["pids"].get("server", "-"))
        shown = (row["mountpoint"], row["image"], row["driver"], pid, row["state"], _local(row))
        lines.append(tuple(map(printable, shown)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


def _row(record: MountRecord, state: State) -> dict[str, Any]:
    from launch.control import ask
    from launch.errors import ServerSilent
    from launch.mounts import server_lives

    progress = None
    if not record.pids:
        from launch.kernel_mounts.kernel_facts import local_share

        progress = local_share(record)
    elif server_lives(record):
        try:
            progress = ask(record.control).get("progress")
        except ServerSilent:
            progress = None
    return {**record.to_json(), "image": record.pinned, "state": state.value, "progress": progress}


def _local(row: dict[str, Any]) -> str:
    from chunk_store.byte_size import human_size

    progress = row["progress"]
    if progress is None:
        return "?"
    total = progress["bytes_total"]
    share = 100 if not total else 100 * progress["bytes_present"] // total
    return f"{share}% of {human_size(total)}"
