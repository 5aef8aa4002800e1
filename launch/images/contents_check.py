"""Whether the table of contents of a blob's object says what the blob table says, and what is there.

No mount of ours looks at most of it, but others do: nydusd takes the chunk digests from where it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

from launch.images.chunk_tables import SizedBlobs
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.chunk_table import completed_digests
from rafs.codes import (
    DIGEST_SIZE,
    SECTION_CHUNK_DIGESTS,
    SECTION_CHUNK_INFO,
    SECTION_CHUNK_INFO_HEADER,
    SECTION_CHUNKS,
    TOC_TAR_NAME,
    BlobFeature,
)
from rafs.errors import FormatInvalid
from rafs.findings import Finding
from rafs.records import CHUNK_INFO_HEADER, TAR_HEADER
from rafs.toc import MAX_TOC, Section, parse_toc, tar_entry


def check_contents(bootstrap: Bootstrap, record: BlobRecord, form: bytes, blobs: SizedBlobs) -> list[Finding]:
    """What is wrong with the table of contents of a blob, if it has one, and with the digests it leads to.

    *form* is the blob's chunk info in cache form, without findings.

    Raises:
        what *blobs* raises.
    """
    if not record.features & BlobFeature.HAS_TOC or record.is_unplaced:
        return []
    where = f"blob {record.id}"
    try:
        sections, end = _read(record, blobs)
        found = [Finding("toc", where, message) for message in _misplaced(record, sections, end)]
        if found:
            return found
        sections[SECTION_CHUNK_INFO].check(form[: record.ci_uncompressed_size])
        sections[SECTION_CHUNK_INFO_HEADER].check(form[-CHUNK_INFO_HEADER.size :])
        if SECTION_CHUNK_DIGESTS in sections and record.digests_offset is not None:
            size = DIGEST_SIZE * record.chunk_count
            digests = b"".join(blobs.read_at(record.meta_object, record.digests_offset, size))
            sections[SECTION_CHUNK_DIGESTS].check(digests)
            completed_digests(record, *bootstrap.known_digests(record.index), digests)
    except FormatInvalid as error:
        return [Finding("toc", where, str(error))]
    return []


def _read(record: BlobRecord, blobs: SizedBlobs) -> tuple[Mapping[bytes, Section], int]:
    """The sections, and where in the object their table begins.

    Raises:
        FormatInvalid: there is no table, though the blob's features say so.
    """
    name, size = record.meta_object, blobs.object_size(record.meta_object)
    header = b"".join(blobs.read_at(name, max(0, size - TAR_HEADER.size), min(size, TAR_HEADER.size)))
    kind, length = tar_entry(header)
    whole = length + TAR_HEADER.size
    if kind != TOC_TAR_NAME or whole > min(size, MAX_TOC):
        raise FormatInvalid(f"its object ends with {kind[:40]!r} of {length} bytes, not a table of contents")
    return parse_toc(b"".join(blobs.read_at(name, size - whole, whole))), size - whole


def _misplaced(record: BlobRecord, sections: Mapping[bytes, Section], end: int) -> Iterator[str]:
    """What the table says of places and sizes that is not so."""
    stored, header = record.ci_compressed_size, CHUNK_INFO_HEADER.size
    wanted = {
        SECTION_CHUNK_INFO: (record.ci_offset, stored, record.ci_uncompressed_size),
        SECTION_CHUNK_INFO_HEADER: (record.ci_offset + stored, header, header),
    }
    if record.digests_offset is not None:
        size = DIGEST_SIZE * record.chunk_count
        wanted[SECTION_CHUNK_DIGESTS] = (record.digests_offset, size, size)
    for name, place in wanted.items():
        section = sections.get(name)
        if section is None:
            yield f"its table of contents has no {name.decode()}"
        elif (section.offset, section.stored_size, section.size) != place:
            yield (
                f"its table of contents has {section.stored_size} bytes for {section.size} of {name.decode()}"
                f" at {section.offset}, the blob table {place[1]} for {place[2]} at {place[0]}"
            )
    # Where the chunks are it says in several wrong ways.
    others = [section for name, section in sections.items() if name != SECTION_CHUNKS]
    places = sorted((section.offset, section.offset + section.stored_size) for section in others)
    for (_, this_end), (start, _) in pairwise([*places, (end, end)]):
        if start < this_end:
            yield f"its table of contents has a section that ends at {this_end}, the next starts at {start}"
