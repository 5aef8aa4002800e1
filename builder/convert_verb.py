"""`nopull convert`: the command line of `builder.convert`."""

from __future__ import annotations

import gc
import json
import logging
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rafs.defaults import BATCH_SIZE, CHUNK_SIZE, COMPRESSION_LEVEL
from rafs.printable import printable
from registry_client.options_cli import registry_options

if TYPE_CHECKING:
    from builder.report import ConvertReport
    from builder.reuse import Dictionary
    from builder.shelf import Shelf
    from registry_client.options import RegistryOptions
    from registry_client.reference import Reference

_log = logging.getLogger(__name__)

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20}
_SMALLEST: Final = 4 << 10  # a block of the format
_LARGEST_CHUNK: Final = 16 << 20  # of the format
LARGEST_BATCH: Final = 8 << 20  # units get twice as large, and larger ones than 16 MiB nobody has tried


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """Bytes in binary units: 65536, 64K or 64KiB, 1M or 1MiB.

    64KB is refused: elsewhere on the command line it is 64 000 bytes, which nobody wants here.
    """

    name = "size"

    def __init__(self, largest: int, *, power_of_two: bool) -> None:
        self._largest = largest
        self._power_of_two = power_of_two

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if re.fullmatch(r"[0-9]+[KM]B", str(value), re.IGNORECASE):
            binary = str(value)[:-1].upper()
            self.fail(f"{value!r} is decimal; units are binary here: {binary} or {binary}iB", param, ctx)
        match = re.fullmatch(r"([0-9]{1,12})(?:([KM])(?:iB)?|B)?", str(value), re.IGNORECASE)
        size = int(match[1]) * _UNITS[(match[2] or "").upper()] if match else 0
        if not _SMALLEST <= size <= self._largest:
            self.fail(f"{value!r} is not a size from 4K to {self._largest >> 20}M, such as 256K", param, ctx)
        if self._power_of_two and size & (size - 1):
            self.fail(f"{value!r} is not a power of two", param, ctx)
        return size


@click.command(
    epilog="""\b
Examples:
  nopull convert docker://registry.example/app:1 docker://registry.example/app:1-lazy
  nopull convert --platform all registry.example/app:1 registry.example/app:1-lazy
  nopull convert oci:build:app registry.example/app:1-lazy
  nopull convert --chunk-dict registry.example/base:1-lazy registry.example/app:2 registry.example/app:2-lazy
  nopull convert --index artifact-type registry.example/app:1 registry.example/app:1
  nopull convert --prefetch /opt/app --prefetch '/usr/lib/*.so*' registry.example/app:1 oci:out:app
  nopull convert --compression-level 9 --batch-size 4M registry.example/app:1 oci:out:app
""",
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--platform", metavar="P|all", help="Which image of an index, or all of them [default: this machine's]."
)
@click.option(
    "--chunk-size", type=Size(_LARGEST_CHUNK, power_of_two=True), default=CHUNK_SIZE, metavar="SIZE",
    help="What is deduplicated and verified, a power of two, as 64K (or 64KiB) "
    f"[default: {CHUNK_SIZE >> 10}K].",
)
@click.option(
    "--batch-size", type=Size(LARGEST_BATCH, power_of_two=False), default=BATCH_SIZE, metavar="SIZE",
    help="What is compressed and fetched together, on average; 1M (or 1MiB) is 1024K "
    f"[default: {BATCH_SIZE >> 20}M].",
)
@click.option(
    "--compression-level", type=click.IntRange(1, 22), default=COMPRESSION_LEVEL, metavar="N",
    help=f"Of zstd, 1 to 22 [default: {COMPRESSION_LEVEL}].",
)
@click.option(
    "--index", "spelling", type=click.Choice(["artifact-type", "os-features"]), metavar="SPELLING",
    help="Publish an index with the ordinary image beside the converted one: artifact-type is today's way to "
    "tell them apart, os-features that of Nydus before 2025.",
)
@click.option(
    "--referrer", is_flag=True,
    help="Let the converted image refer to SRC's, so that it is found from there; DST in SRC's repository or "
    "layout, or with --index.",
)
@click.option(
    "--prefetch", "prefetch", multiple=True, metavar="PATH|PATTERN|@FILE",
    help="What a start needs first, before what is found by itself; FILE has a path or pattern per line.",
)
@click.option(
    "--hot-blob", default="named", show_default=True, type=click.Choice(["none", "named", "all"]),
    help="Whether what is prefetched is copied into a blob of its own, to be fetched in one run: never, if "
    "--prefetch names some of it, or always.",
)
@click.option(
    "--chunk-dict", "chunk_dicts", multiple=True, metavar="IMAGE",
    help="A converted image: chunks it has are referred to, not stored again. May be given more than once.",
)
@click.option(
    "--reuse/--no-reuse", default=True,
    help="Whether layers that DST's repository has converted already are taken as they are [default: yes].",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), metavar="N",
    help="How much to compress at a time; changes no byte of the result [default: one per processor].",
)
@click.option(
    "--work-dir", type=click.Path(file_okay=False, exists=True, path_type=Path), metavar="DIR",
    help="Where the unpacked image lies meanwhile; it has to fit [default: $TMPDIR or /tmp].",
)
@click.option("--json", "as_json", is_flag=True, help="Print a report as JSON.")
@registry_options
def convert(
    source: str,
    destination: str,
    platform: str | None,
    chunk_size: int,
    batch_size: int,
    compression_level: int,
    spelling: str | None,
    referrer: bool,
    prefetch: tuple[str, ...],
    hot_blob: str,
    chunk_dicts: tuple[str, ...],
    reuse: bool,
    jobs: int | None,
    work_dir: Path | None,
    as_json: bool,
    registry: RegistryOptions,
) -> None:
    """Make the image SRC lazily loadable and publish it as DST.

    The result is an ordinary image in an ordinary registry (RAFS v6, as Nydus has it). SRC is left as it is.
    The same image and options give the same digest on every machine. An image that is converted already is
    copied. Layers that another image in DST's repository has are neither fetched nor pushed again. Nothing
    appears under DST's name before everything it needs is there.
    """
    from builder.convert import convert as convert_images
    from builder.convert_options import ConvertOptions
    from builder.discovery import Spelling
    from builder.hot.hot_blob import HotBlob
    from builder.hot.prefetch_list import read_wishes
    from builder.progress import shown_progress
    from registry_client import open_destination, open_source
    from registry_client.platform import parse_platform
    from registry_client.reference import parse_reference

    origin, target = parse_reference(source), parse_reference(destination)
    _refuse_digest(target)
    if referrer and spelling is None:
        _refuse_elsewhere(origin, target)
    _prepare_interpreter()
    every = platform == "all"
    choice = ConvertOptions(
        platform=None if every or platform is None else parse_platform(platform),
        every_platform=every,
        chunk_size=chunk_size,
        batch_size=batch_size,
        compression_level=compression_level,
        spelling=None if spelling is None else Spelling(spelling),
        referrer=referrer,
        prefetch=read_wishes(prefetch),
        hot_blob=HotBlob(hot_blob),
        jobs=jobs or 0,
        work_dir=work_dir,
    )
    with ExitStack() as owned:
        opened = open_source(origin, registry)
        owned.callback(opened.close)
        dictionaries = [_dictionary(text, target, registry, owned) for text in chunk_dicts]
        published = open_destination(target, registry)
        owned.callback(published.close)
        shelf = _shelf(target, registry, owned) if reuse and not dictionaries else None
        progress = owned.enter_context(shown_progress(sys.stderr))
        report = convert_images(
            opened,
            published,
            tag=target.tag,
            options=choice,
            progress=progress,
            shelf=shelf,
            dictionaries=dictionaries,
            source_repository=_neighbour(origin, target),
        )
    _warn(report)
    if as_json:
        click.echo(json.dumps({"destination": str(target), **report.to_json()}, indent=2))
    else:
        for line in _summary(report):
            click.echo(printable(line))
        click.echo(printable(f"{destination}: {report.digest}"))


def _shelf(target: Reference, registry: RegistryOptions, owned: ExitStack) -> Shelf | None:
    """The images that are in DST's repository or layout; None for archives, which begin empty."""
    from builder.shelf import Shelf
    from registry_client import open_source
    from registry_client.reference import Transport
    from registry_client.source import TaggedSource

    if target.transport not in (Transport.DOCKER, Transport.OCI):
        return None
    source = open_source(target, registry)
    owned.callback(source.close)
    assert isinstance(source, TaggedSource), "repositories and layouts know their tags"
    return Shelf(source, target.tag)


def _dictionary(text: str, target: Reference, registry: RegistryOptions, owned: ExitStack) -> Dictionary:
    from builder.reuse import Dictionary
    from registry_client import open_source
    from registry_client.reference import parse_reference

    reference = parse_reference(text)
    source = open_source(reference, registry)
    owned.callback(source.close)
    return Dictionary(source, _neighbour(reference, target))


def _neighbour(reference: Reference, target: Reference) -> str | None:
    """The repository of *reference* if blobs of it can be mounted into *target*."""
    from registry_client.reference import Transport

    near = target.transport is reference.transport is Transport.DOCKER and target.host == reference.host
    return reference.repository if near else None


def _prepare_interpreter() -> None:
    """Set this process up for one thread that runs Python and several that compress.

    These want the interpreter for a moment between two units, and would wait 5 ms for it each time. And there
    is nothing to be found by looking for circles in a tree of a million files over and over.
    """
    sys.setswitchinterval(0.0005)
    gc.set_threshold(200_000)


def _refuse_digest(target: Reference) -> None:
    if target.digest is not None:
        raise click.BadParameter(
            f"{target} has a digest, which nobody can choose; name a tag", param_hint="DST"
        )


def _refuse_elsewhere(origin: Reference, target: Reference) -> None:
    """Only an index brings the ordinary image along; otherwise it has to be where the referrer is put."""
    from registry_client.reference import Transport

    together = False
    if origin.transport is target.transport is Transport.DOCKER:
        together = (origin.host, origin.repository) == (target.host, target.repository)
    elif origin.transport is target.transport is Transport.OCI:
        assert origin.path is not None and target.path is not None, "parse_reference gives oci: a path"
        together = origin.path.resolve() == target.path.resolve()
    if not together:
        raise click.BadParameter(
            f"what refers to {origin.familiar()} has to be in its repository or layout, "
            f"where {target.familiar()} is not",
            param_hint="--referrer",
        )


def _warn(report: ConvertReport) -> None:
    from rafs.counted import counted

    for image in report.images:
        for name, count in sorted(image.dropped_xattrs.items()):
            files = counted(count, "file")
            _log.warning("%s: xattr %s of %s has no place in the format", image.platform, name, files)
        for wish in image.not_prefetched:
            _log.warning("%s: nothing to prefetch is called %s", image.platform, wish)


def _summary(report: ConvertReport) -> list[str]:
    from rafs.counted import counted
    from registry_client.sizes import megabytes

    if report.already_converted:
        return ["converted already, copied as it is"]
    lines = []
    for image in report.images:
        if image.already_converted:
            lines.append(f"{image.platform}: converted already, copied as it is")
            continue
        share = f", {image.stored_bytes / image.source_bytes:.2f} of it" if image.source_bytes else ""
        layers = counted(len(image.layers), "layer")
        lines.append(
            f"{image.platform}: {layers}, {megabytes(image.tar_bytes)} unpacked, "
            f"{megabytes(image.source_bytes)} before, {megabytes(image.stored_bytes)} now{share}"
        )
        reused = sum(layer.reused for layer in image.layers)
        if reused:
            made = megabytes(image.new_bytes)
            lines.append(f"{counted(reused, 'layer')} had been converted already; {made} are new")
    for count, why in (
        (report.skipped, "not of an image"),
        (report.superseded, "converted images, which were made anew"),
    ):
        if count:
            lines.append(f"left out {counted(count, 'entry', 'entries')} of the index: {why}")
    lines.append(f"took {report.seconds:.1f} s")
    return lines
