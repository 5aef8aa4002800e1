"""`nopull diff`: what two converted images share, and what only one of them has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chunk_store.root_option import root_option
from launch.images.image_options import image_options
from rafs.printable import printable
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform


@click.command(
    epilog="""\b
Examples:
  nopull diff registry.example/app:1-lazy registry.example/app:2-lazy
  nopull diff --files oci:layout:1-lazy oci:layout:2-lazy
  nopull diff --json rafs:old.boot rafs:new.boot | jq .chunks.added.bytes
"""
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--files", is_flag=True, help="List the paths: + only in B, - only in A, ~ changed and how.")
@image_options
@root_option
@registry_options
def diff(
    first: str,
    second: str,
    as_json: bool,
    files: bool,
    platform: Platform | None,
    blob_dir: Path | None,
    root: Path,
    registry: RegistryOptions,
) -> None:
    """Tell how the converted image B differs from A: paths, contents, chunks and blobs.

    Contents are compared by the digests of their chunks; of blobs no more is read than tables that the
    bootstrap lacks. Chunks that are added are what a machine that has A has to fetch for B, not compressed.

    In paths all but printable ASCII, and space, "%", "=" and ",", is written %XX, with --json too.
    """
    from builder.difference import difference
    from launch.images.difference_lines import difference_lines
    from launch.images.image_request import refuse_blob_dir
    from launch.images.lazy_image import open_image
    from registry_client.reference import Transport, parse_reference

    references = [parse_reference(first), parse_reference(second)]
    bare = [reference for reference in references if reference.transport is Transport.RAFS]
    refuse_blob_dir((bare or references)[0], blob_dir)
    images = []
    for reference in references:
        blobs = blob_dir if reference.transport is Transport.RAFS else None
        opened = open_image(reference, registry, root, platform, blob_dir=blobs)
        try:
            images.append((opened.bootstrap, opened.blobs))
        finally:
            opened.close()
    found = difference(*images[0], *images[1])
    if as_json:
        click.echo(json.dumps(found.to_json(paths=files), indent=1))
    else:
        for line in difference_lines(found, paths=files):
            click.echo(printable(line))
