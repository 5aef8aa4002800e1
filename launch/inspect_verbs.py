"""`nopull check`, `inspect` and `explain`: is an image sound, what is it made of, what has a mount done."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chunk_store.root_option import root_option
from launch.image_options import image_options
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from launch.image_check import ImageCheck
    from launch.images import LazyImage
    from launch.mounts import MountRecord
    from registry_client.manifest import Manifest
    from registry_client.options import RegistryOptions
    from registry_client.platform import Platform
    from registry_client.reference import Reference

# As in the command's table of exit codes.
UNREACHABLE = 3
UNAUTHORISED = 4
BROKEN = 6


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
@click.option("--deep", is_flag=True, help="Read every chunk as well, and verify it.")
@click.option(
    "--against",
    metavar="OCI_IMAGE",
    help="Compare every path's type, bytes, mode, owner, time, links and xattrs with this image; reads all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@image_options
@registry_options
@click.pass_context
def check(
    ctx: click.Context,
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
    from launch.image_check import ImageCheck
    from registry_client.reference import parse_reference

    ordinary = None if against is None else parse_reference(against)
    deep = deep or ordinary is not None
    looking = ImageCheck(parse_reference(image), registry, platform, blob_dir)
    try:
        looking.shallow()
        if deep:
            with click.progressbar(
                length=looking.bytes_to_read, label="reading chunks", file=sys.stderr, hidden=as_json
            ) as bar:
                looking.deep(bar.update)
        if ordinary is not None:
            _compare(looking, ordinary, registry)
    finally:
        looking.close()
    verdict = looking.verdict
    if as_json:
        click.echo(json.dumps(verdict.to_json(), indent=1))
    else:
        for finding in verdict.findings:
            click.echo(str(finding))
        click.echo(_verdict_sentence(verdict.to_json(), deep))
    if not verdict.sound:
        ctx.exit(BROKEN)


@click.command(
    epilog="""\b
Examples:
  nopull inspect registry.example/app:1-lazy
  nopull inspect --json oci:layout:1-lazy | jq .ratio
  nopull inspect --files rafs:image.boot
"""
)
@click.argument("image")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
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
    from launch import image_facts
    from rafs.dump import dump_lines

    opened = _open(image, registry, root, platform, blob_dir, want_tree=files)
    if isinstance(opened, tuple):
        facts = image_facts.ordinary_facts(*opened)
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
            click.echo(line)


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
    if what is None:
        _explain_registry(registry_host or "", registry, as_json)
        return
    from launch import mounts
    from launch.explain import explain_layers, explain_mount, layer_lines, mount_lines

    record = mounts.find(root, Path(what))
    if trace:
        _explain_trace(record, what, as_json, root)
        return
    if record is not None:
        facts = explain_mount(record, root)
        shown = mount_lines(facts)
    elif os.path.isdir(what):  # noqa: PTH112 - must not raise on whatever text this is
        from launch.errors import NotMounted

        raise NotMounted(f"cannot explain {what}: no mount of nopull is there; `nopull ps` lists them")
    else:
        opened = _open(what, registry, root, platform, blob_dir)
        if isinstance(opened, tuple):
            reference, _, manifest, _ = opened
            layers, converted, digest = explain_layers(manifest, converted=False), False, str(manifest.digest)
        else:
            opened.close()
            converted, digest, reference = True, opened.digest, opened.reference.familiar()
            layers = [] if opened.manifest is None else explain_layers(opened.manifest, converted=True)
        facts = {"reference": reference, "digest": digest, "converted": converted, "layers": layers}
        kind = "converted: can be mounted before its data is here" if converted else "ordinary: not converted"
        shown = [f"{reference}@{digest}", kind, *layer_lines(layers)]
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        for line in shown:
            click.echo(line)


def _explain_trace(record: MountRecord | None, what: str, as_json: bool, root: Path) -> None:
    from launch.errors import NotMounted
    from launch.first_reads import first_reads

    if record is None:
        raise NotMounted(f"cannot tell what was read first in {what}: no mount of nopull is there")
    said = first_reads(record, root)
    if as_json:
        click.echo(json.dumps({"mountpoint": str(record.mountpoint), "digest": record.digest, **said}))
        return
    for file in said["files"]:
        # A line is a path: one that has a line break cannot be in a list.
        if "\n" not in file["path"]:
            click.echo(os.fsencode(file["path"]))
    if said["truncated"]:
        click.echo("nopull: warning: the list is full; files that were read later are not in it", err=True)
    if said["partial"]:
        click.echo("nopull: warning: the kernel does not tell what was local already; fuse does", err=True)


def _explain_registry(host: str, registry: RegistryOptions, as_json: bool) -> None:
    from registry_client.diagnosis import diagnose, diagnosis_lines

    facts = diagnose(host, registry)
    click.echo(json.dumps(facts, indent=1) if as_json else "\n".join(diagnosis_lines(facts)))
    if not any(way["usable"] for way in facts["ways"]):
        sys.exit(UNAUTHORISED if any(way["answered"] for way in facts["ways"]) else UNREACHABLE)


def _compare(looking: ImageCheck, ordinary: Reference, registry: RegistryOptions) -> None:
    from builder.progress import shown_progress
    from registry_client import open_source

    source = open_source(ordinary, registry)
    try:
        with shown_progress(sys.stderr) as progress:
            looking.compare(source, progress)
    finally:
        source.close()


def _open(
    image: str,
    registry: RegistryOptions,
    root: Path,
    platform: Platform | None,
    blob_dir: Path | None,
    *,
    want_tree: bool = False,
) -> LazyImage | tuple[str, Platform, Manifest, bytes]:
    """The image opened; of an ordinary one its name, platform, manifest and config."""
    from launch.errors import ImageNotConverted
    from launch.images import open_image
    from registry_client import open_source
    from registry_client.platform import host_platform
    from registry_client.reference import parse_reference
    from registry_client.selection import find_manifest

    reference = parse_reference(image)
    try:
        return open_image(reference, registry, root, platform, blob_dir=blob_dir)
    except ImageNotConverted:
        if want_tree:
            raise
    wanted = platform or host_platform()
    source = open_source(reference, registry)
    try:
        manifest = find_manifest(source, wanted)
        return reference.familiar(), wanted, manifest, b"".join(source.read_blob(manifest.config))
    finally:
        source.close()


def _verdict_sentence(verdict: dict[str, Any], deep: bool) -> str:
    counted = f"{verdict['inodes']} inodes, {verdict['blobs']} blobs, {verdict['chunks']} chunks"
    read = f"{verdict['chunks_verified']} of them read and verified"
    depth = read if deep else "their bytes not read (--deep)"
    if verdict["against"]:
        depth += f"; {verdict['paths_compared']} paths compared with {verdict['against']}"
    wrong = len(verdict["findings"])
    result = "sound" if not wrong else f"{wrong} finding{'s' if wrong > 1 else ''}"
    return f"{verdict['reference']}@{verdict['digest']}: {result}; {counted}, {depth}"
