"""`nopull check`: the command line of `image_check`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launch.images.image_options import image_options
from rafs.counted import counted
from rafs.printable import printable
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from launch.images.image_check import ImageCheck
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform


@click.command(
    epilog="""\b
Examples:
  nopull check registry.example/app:1-lazy
  nopull check --deep oci:layout:1-lazy
  nopull check rafs:image.boot --blob-dir blobs --json
  nopull check registry.example/app:1-lazy --against registry.example/app:1

Exit code 6 when anything is wrong; all findings are listed.
"""
)
@click.argument("image")
@click.option("--deep", is_flag=True, help="Read every blob as well; verify its chunks and its digest.")
@click.option(
    "--against",
    metavar="OCI_IMAGE",
    help="Compare every path's type, bytes, mode, owner, time, links and xattrs, and what a container runs,"
    " with this image; reads all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@image_options
@registry_options
def check(
    image: str,
    deep: bool,
    against: str | None,
    as_json: bool,
    platform: Platform | None,
    blob_dir: Path | None,
    registry: RegistryOptions,
) -> None:
    """Check that a converted IMAGE is sound: every structure and digest.

    Reads manifest, config, bootstrap and chunk tables from where the image is, never from the cache,
    verifies each by the digest above it, and sees whether every blob is there with its right size. What
    no reader may rely on is listed, not only what ours would stumble over.
    """
    from launch.errors import ImageUnsound
    from launch.images.image_check import ImageCheck
    from registry_client import open_source
    from registry_client.reference import parse_reference

    ordinary = None if against is None else parse_reference(against)
    deep = deep or ordinary is not None
    with ExitStack() as opened:
        looking = opened.enter_context(
            closing(ImageCheck(parse_reference(image), registry, platform, blob_dir))
        )
        if ordinary is not None:
            looking.find_ordinary(opened.enter_context(closing(open_source(ordinary, registry))))
        looking.shallow()
        if deep:
            _read(looking, silent=as_json)
        if ordinary is not None:
            _compare(looking)
    verdict = looking.verdict
    if as_json:
        click.echo(json.dumps(verdict.to_json(), indent=1))
    else:
        for finding in verdict.findings:
            click.echo(printable(str(finding)))
        click.echo(printable(_verdict_sentence(verdict.to_json(), deep)))
    if not verdict.sound:
        raise ImageUnsound(f"{verdict.reference}: {counted(len(verdict.findings), 'finding')}")


def _read(looking: ImageCheck, *, silent: bool) -> None:
    from builder.progress import SilentProgress, shown_progress

    step = "read blobs"
    with nullcontext(SilentProgress()) if silent else shown_progress(sys.stderr) as progress:
        progress.begin(step, looking.bytes_to_read)
        looking.deep(lambda count: progress.advance(step, count))
        progress.finish(step, "")


def _compare(looking: ImageCheck) -> None:
    from builder.progress import shown_progress

    with shown_progress(sys.stderr) as progress:
        looking.compare(progress)


def _verdict_sentence(verdict: dict[str, Any], deep: bool) -> str:
    parts = [(verdict["inodes"], "inode"), (verdict["blobs"], "blob"), (verdict["chunks"], "chunk")]
    whole = ", ".join(counted(*part) for part in parts)
    read = f"{verdict['chunks_verified']} of them read and verified"
    depth = read if deep else "their bytes not read (--deep)"
    if verdict["against"]:
        depth += f"; {counted(verdict['paths_compared'], 'path')} compared with {verdict['against']}"
        depth += f", {verdict['files_compared']} of {counted(verdict['files'], 'file')} by content"
    wrong = len(verdict["findings"])
    result = "sound" if not wrong else counted(wrong, "finding")
    return f"{verdict['reference']}@{verdict['digest']}: {result}; {whole}, {depth}"
