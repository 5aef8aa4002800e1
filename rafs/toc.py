"""The table of contents at the end of a blob object, and the tar headers that follow its sections.

It says where chunk info, digests and an inlined bootstrap are, and what they hash to; the bootstrap knows the
hash of the table itself, so a section can be trusted without reading the object. Reads no object: whoever has
one gives its last bytes.
"""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from rafs.counted import counted

from .codes import TOC_FLAG_LZ4, TOC_FLAG_NONE, TOC_FLAG_ZSTD, TOC_TAR_NAME, Compressor
from .decompress import decompress
from .errors import FormatInvalid
from .records import TAR_HEADER, TOC_ENTRY

MAX_TOC: Final = 4096  # bytes, with its tar header: what every reader looks at

_COMPRESSORS: Final = {
    TOC_FLAG_NONE: Compressor.NONE,
    TOC_FLAG_ZSTD: Compressor.ZSTD,
    TOC_FLAG_LZ4: Compressor.LZ4_BLOCK,
}
_OCTAL: Final = frozenset(b"01234567")


class Section(NamedTuple):
    """One entry of the table. Bytes.

    Place and sizes of the chunk data ("image.blob") mean something else in some versions: it starts at 0.
    """

    name: bytes
    flags: int
    offset: int  # in the object
    stored_size: int
    size: int
    digest: bytes  # sha256 of the uncompressed section; zeros: unknown

    def check(self, content: bytes) -> None:
        """Return if *content*, uncompressed, is the section, as far as the table knows it.

        Raises:
            FormatInvalid: it has another digest.
        """
        found = hashlib.sha256(content).digest()
        if any(self.digest) and found != self.digest:
            raise FormatInvalid(
                f"section {self.name.decode()} has sha256 {found.hex()}, the table of contents says"
                f" {self.digest.hex()}"
            )

    def unpack(self, stored: bytes) -> bytes:
        """The section's content from its *stored* bytes, verified.

        Raises:
            ChunkInvalid: they are not its compressed form.
            FormatInvalid: unknown compression, or another digest.
        """
        compressor = _COMPRESSORS.get(self.flags)
        if compressor is None:
            raise FormatInvalid(f"section {self.name.decode()} has flags {self.flags:#x}, expected 1, 2 or 4")
        content = decompress(compressor, stored, self.size)
        self.check(content)
        return content


def parse_toc(raw: bytes) -> dict[bytes, Section]:
    """The sections by name; *raw* is the whole table: its entries and the tar header behind them.

    Raises:
        FormatInvalid: it is none.
    """
    name, size = tar_entry(raw[-TAR_HEADER.size :])
    if name != TOC_TAR_NAME or size != len(raw) - TAR_HEADER.size or size % TOC_ENTRY.size:
        raise FormatInvalid(
            f"a table of contents of {counted(len(raw), 'byte')} ends with a header for {size} of {name!r}"
        )
    sections: dict[bytes, Section] = {}
    for entry in TOC_ENTRY.unpack_all(raw[:size]):
        section = Section(
            entry.name.rstrip(b"\0"),
            entry.flags,
            entry.compressed_offset,
            entry.compressed_size,
            entry.size,
            entry.digest,
        )
        if section.name in sections or not section.name.isascii():
            raise FormatInvalid(f"the table of contents has a section {section.name!r} twice, or misnames it")
        sections[section.name] = section
    return sections


def trusted_toc(raw: bytes, digest: bytes) -> dict[bytes, Section]:
    """The sections by name, after comparing the table with the *digest* that the bootstrap has of it.

    Raises:
        FormatInvalid: it has another one, or is none.
    """
    found = hashlib.sha256(raw).digest()
    if found != digest:
        raise FormatInvalid(
            f"the table of contents has sha256 {found.hex()}, the bootstrap says {digest.hex()}"
        )
    return parse_toc(raw)


def tar_entry(raw: bytes) -> tuple[bytes, int]:
    """(name, size) of a tar header of 512 bytes.

    Raises:
        FormatInvalid: it is none of a regular file.
    """
    header = TAR_HEADER.unpack(raw)
    digits = header.size.rstrip(b"\0 ")
    if header.type_flag != b"0" or not digits or not _OCTAL.issuperset(digits):
        raise FormatInvalid(f"expected a tar header of a file, found {raw[:32]!r}…")
    return header.name.rstrip(b"\0"), int(digits, 8)
