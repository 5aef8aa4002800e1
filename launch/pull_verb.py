"""`nopull pull`: the command line of `filling`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chunk_store.root_option import root_option
from launch.images.image_options import image_options
from launch.store_options import store_options, store_root
from rafs.printable import printable
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform


@click.command(
    epilog="""\b
Examples:
  nopull pull registry.example/app:1-lazy
  nopull pull --json registry.example/app:1-lazy | jq .fetched_bytes
"""
)
@click.argument("image")
@image_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@store_options
@root_option
@registry_options
def pull(
    image: str,
    platform: Platform | None,
    blob_dir: Path | None,
    as_json: bool,
    cache_size: int | None,
    isolate: bool,
    root: Path,
    registry: RegistryOptions,
) -> None:
    """Fetch all of the converted IMAGE that is not on this machine yet.

    Afterwards it mounts and runs without its registry, by this name and by its digest; an image of a layout
    or an archive, as long as that is there. What other images brought already is not fetched again.
    Interrupted, it goes on next time where it was.
    """
    from builder.progress import shown_progress
    from chunk_store import ChunkStore, Limits
    from chunk_store.byte_size import human_size
    from launch.images.filling import fill
    from launch.images.lazy_image import open_image
    from launch.kernel_mounts.silent_keeper import see_to_keeper
    from registry_client.reference import parse_reference

    began = time.monotonic()
    reference = parse_reference(image)
    place = store_root(root, reference, isolate=isolate)
    see_to_keeper(place, root)
    with ChunkStore(place, limits=Limits(cache_bytes=cache_size)) as store:
        opened = open_image(reference, registry, root, platform, blob_dir=blob_dir)
        try:
            for warning in opened.warnings:
                click.echo(printable(f"nopull: warning: {warning}"), err=True)
            with shown_progress(sys.stderr) as progress:
                done = fill(store, opened, progress, patience=registry.timeout)
        finally:
            opened.close()
    fetched = done.background
    if as_json:
        facts = {
            "reference": opened.reference.familiar(),
            "digest": opened.digest,
            "platform": str(opened.platform),
            "bytes_total": done.bytes_total,
            "windows_total": done.windows_total,
            "fetched_bytes": fetched.compressed_bytes,
            "fetched_windows": fetched.windows,
            "requests": fetched.requests,
            "seconds": round(time.monotonic() - began, 3),
            "warnings": list(opened.warnings),
        }
        click.echo(json.dumps(facts))
        return
    name = f"{opened.reference.familiar().partition('@')[0]}@{opened.digest}"
    came = f"{human_size(fetched.compressed_bytes)} came" if fetched.windows else "nothing was missing"
    click.echo(printable(f"{name} is local: {human_size(done.bytes_total)}; {came}"))
