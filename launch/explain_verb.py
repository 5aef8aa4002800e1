"""`nopull explain`: the command line of `explain`, of first reads, and of a registry's diagnosis."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chunk_store.root_option import root_option
from launch.images.image_options import image_options
from rafs.printable import printable
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from launch.mounts import MountRecord
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform
    from registry_client.reference import Reference


@click.command(
    epilog="""\b
Examples:
  nopull explain /mnt
  nopull explain registry.example/app:1-lazy
  nopull explain --json /mnt | jq .progress.demand
  nopull explain --trace /mnt > first-reads      # then: nopull convert --prefetch @first-reads …
  nopull explain --registry registry.example
"""
)
@click.argument("what", metavar="[IMAGE|DIR]", required=False)
@click.option(
    "--registry",
    "registry_host",
    metavar="HOST[/REPOSITORY]",
    help="Try a registry: which account is used and where it is from, which mirrors, what each answers.",
)
@click.option(
    "--trace", is_flag=True, help="Of a mount: print the files that were read, in the order of first reads."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@image_options
@root_option
@registry_options
def explain(
    what: str | None,
    registry_host: str | None,
    trace: bool,
    as_json: bool,
    platform: Platform | None,
    blob_dir: Path | None,
    root: Path,
    registry: RegistryOptions,
) -> None:
    """Tell what is lazy, what is not, and why.

    Of an image: for each layer, whether it is fetched in pieces or has to be there as a whole. Of a
    directory that nopull mounted: its driver and processes, how much is local, and what was fetched
    because a reader waited for it, because it was expected to be needed, or in the background. Of a
    registry: how it is reached, who we are there, and what it says to that (exit code 3 when it does not
    answer, 4 when it does not let us in).
    """
    if (what is None) == (registry_host is None):
        raise click.UsageError("give an image or a directory, or a registry with --registry")
    if trace and registry_host is not None:
        raise click.UsageError("--trace is for a mount, and --registry for none")
    if what is None:
        _explain_registry(registry_host or "", registry, as_json)
        return
    from launch import mounts
    from launch.explain import explain_mount, image_lines, mount_lines

    if not what:
        raise click.UsageError("the image or directory is an empty word")
    record = mounts.find(root, Path(what))
    if trace:
        _explain_trace(record, what, as_json, root)
        return
    if record is not None:
        facts = explain_mount(record, root)
        shown = mount_lines(facts)
    elif os.path.exists(what):  # noqa: PTH110 - must not raise on whatever text this is
        from launch.errors import NotMounted

        above = mounts.mounted_above(root, Path(what))
        raise NotMounted(f"cannot explain {what}: no mount of nopull is there{above}; `nopull ps` lists them")
    elif what.startswith(("/", "./", "../")):
        from launch.errors import NotMounted

        raise NotMounted(f"cannot explain {what}: nothing is there; `nopull ps` lists what is mounted")
    else:
        from registry_client.reference import parse_reference

        facts = _image_facts(parse_reference(what), registry, root, platform, blob_dir)
        shown = image_lines(facts)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        for line in shown:
            click.echo(printable(line))


def _image_facts(
    reference: Reference,
    registry: RegistryOptions,
    root: Path,
    platform: Platform | None,
    blob_dir: Path | None,
) -> dict[str, Any]:
    from launch.errors import ImageNotConverted
    from launch.explain import explain_image
    from launch.images.lazy_image import open_image
    from launch.images.ordinary_image import read_ordinary

    try:
        opened = open_image(reference, registry, root, platform, blob_dir=blob_dir)
    except ImageNotConverted:
        ordinary = read_ordinary(reference, registry, platform)
        return explain_image(ordinary.reference, ordinary.manifest.digest, ordinary.manifest, converted=False)
    opened.close()
    return explain_image(opened.reference.familiar(), opened.digest, opened.manifest, converted=True)


def _explain_trace(record: MountRecord | None, what: str, as_json: bool, root: Path) -> None:
    from launch.errors import NotMounted
    from launch.first_reads import first_reads
    from launch.mounts import mounted_above

    if record is None:
        above = mounted_above(root, Path(what))
        raise NotMounted(f"cannot tell what was read first in {what}: no mount of nopull is there{above}")
    said = first_reads(record, root)
    if as_json:
        click.echo(json.dumps({"mountpoint": str(record.mountpoint), "digest": record.digest, **said}))
        return
    for file in said["files"]:
        # A line is a path: one that has a line break cannot be in a list.
        if "\n" not in file["path"]:
            # A list for a file or a program has the bytes; a terminal must not act on them.
            path = file["path"]
            click.echo(printable(path) if sys.stdout.isatty() else os.fsencode(path))
    if said["truncated"]:
        click.echo("nopull: warning: the list is full; files that were read later are not in it", err=True)
    if said["partial"]:
        click.echo("nopull: warning: the kernel does not tell what was local already; fuse does", err=True)


def _explain_registry(host: str, registry: RegistryOptions, as_json: bool) -> None:
    from launch.errors import RegistryRefuses, RegistrySilent
    from registry_client.registries.diagnosis import diagnose, diagnosis_lines

    facts = diagnose(host, registry)
    lines = map(printable, diagnosis_lines(facts))
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(lines))
    if any(way["usable"] for way in facts["ways"]):
        return
    if any(way["answered"] for way in facts["ways"]):
        raise RegistryRefuses(f"{host} does not let us in")
    raise RegistrySilent(f"{host} does not answer")
