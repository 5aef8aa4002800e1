"""`nopull inspect`: the command line of `image_facts`."""

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
  nopull inspect registry.example/app:1-lazy
  nopull inspect --json oci:layout:1-lazy | jq .ratio
  nopull inspect --files rafs:image.boot
"""
)
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, paths quoted as by --files.")
@click.option("--files", is_flag=True, help="Print the file tree instead: a line per name.")
@image_options
@root_option
@registry_options
def inspect(
    image: str,
    as_json: bool,
    files: bool,
    platform: Platform | None,
    blob_dir: Path | None,
    root: Path,
    registry: RegistryOptions,
) -> None:
    """Tell what IMAGE is made of: layers, blobs, chunks, sizes, what it runs.

    An ordinary image is described as well, as far as its documents go.
    """
    if files and as_json:
        raise click.UsageError("--files is the tree as text and --json all else: give one of them")
    from launch.errors import ImageNotConverted
    from launch.images import image_facts
    from launch.images.lazy_image import open_image
    from launch.images.ordinary_image import read_ordinary
    from rafs.dump import dump_lines
    from registry_client.reference import parse_reference

    reference = parse_reference(image)
    try:
        opened = open_image(reference, registry, root, platform, blob_dir=blob_dir)
    except ImageNotConverted:
        if files:
            raise
        facts = image_facts.ordinary_facts(read_ordinary(reference, registry, platform))
    else:
        try:
            if files:
                for line in dump_lines(opened.stored):
                    click.echo(line)
                return
            facts = image_facts.converted_facts(opened)
        finally:
            opened.close()
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        for line in image_facts.lines(facts):
            click.echo(printable(line))
