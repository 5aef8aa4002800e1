"""Writing an image as one tar file (`oci-archive:FILE[:TAG]`).

Blobs are appended to a temporary file beside FILE as they come; the index follows when the destination is
closed. Only then, and only if the image's own manifest was put, the file gets its name and replaces an older
one.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from registry_client.digest import VerifyingReader, digest_of
from registry_client.errors import write_error
from registry_client.layouts.layout import INDEX, MARKER, blob_name
from registry_client.layouts.layout_writer import EMPTY_INDEX, MARKER_TEXT, replace_entry, sync_directory
from registry_client.layouts.region import PIECE
from registry_client.manifest import Descriptor, parse_manifest
from registry_client.sizes import megabytes


class ArchiveDestination:
    """A new archive; fulfils `ImageDestination`. Threads take turns: a tar has one end."""

    def __init__(self, file: Path, tag: str | None) -> None:
        # Renaming replaces a link itself, and /dev/stdout is one.
        self._file = Path(os.path.realpath(file))
        self._tag = tag
        self._lock = threading.Lock()  # protects the fields below and the end of the file
        self._sizes: dict[str, int] = {}
        self._entries: list[dict[str, Any]] = []
        self._complete = False
        self._damaged = False
        try:
            _refuse_other_than_files(file)
            # Not by the file's name, which may be as long as names can be.
            descriptor, self._partial = tempfile.mkstemp(prefix=".partial-", dir=self._file.parent)
        except OSError as error:
            raise write_error(f"cannot write the archive {file}", error, self._file.parent) from error
        self._out = os.fdopen(descriptor, "wb")
        self._append(MARKER, len(MARKER_TEXT), io.BytesIO(MARKER_TEXT))

    def has_blob(self, descriptor: Descriptor) -> bool:
        with self._lock:
            return self._sizes.get(blob_name(descriptor.digest)) == descriptor.size

    def put_blob(self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> None:
        name = blob_name(descriptor.digest)
        with self._lock:
            if name in self._sizes:
                return
            with open_blob() as opened:
                reader = VerifyingReader(opened, descriptor.digest, descriptor.size)
                self._append(name, descriptor.size, reader)

    def put_manifest(self, raw: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        digest = digest_of(raw)
        document = parse_manifest(raw, media_type, digest)
        with self._lock:
            if blob_name(digest) not in self._sizes:
                self._append(blob_name(digest), len(raw), io.BytesIO(raw))
            self._entries = replace_entry(self._entries, document.descriptor(), tag, document)
            self._complete = self._complete or tag == self._tag
        return document.descriptor()

    def close(self) -> None:
        with self._lock:
            if self._out.closed:
                return
            try:
                if self._complete and not self._damaged:
                    self._publish()
            finally:
                with suppress(OSError):
                    # A full disk says so once more; what was published has been synced.
                    self._out.close()
                with suppress(FileNotFoundError):
                    Path(self._partial).unlink()

    def _publish(self) -> None:
        index = json.dumps({**EMPTY_INDEX, "manifests": self._entries}).encode()
        self._append(INDEX, len(index), io.BytesIO(index))
        try:
            self._out.write(bytes(2 * tarfile.BLOCKSIZE))
            self._out.flush()
            os.fsync(self._out.fileno())
            os.fchmod(self._out.fileno(), 0o644)
            Path(self._partial).rename(self._file)
            sync_directory(self._file.parent)
        except OSError as error:
            raise write_error(f"cannot finish the archive {self._file}", error, self._file.parent) from error

    def _append(self, name: str, size: int, reader: BinaryIO | VerifyingReader) -> None:
        """Add one member, or nothing at all."""
        start = self._out.tell()
        header = tarfile.TarInfo(name)
        header.size = size
        header.mode = 0o644
        try:
            self._out.write(header.tobuf(tarfile.GNU_FORMAT))
            shutil.copyfileobj(reader, self._out, PIECE)
            self._out.write(bytes(-size % tarfile.BLOCKSIZE))
        except OSError as error:
            self._cut(start)
            doing = f"cannot write {name} ({megabytes(size)}) to {self._file}"
            raise write_error(doing, error, self._file.parent) from error
        except BaseException:
            self._cut(start)
            raise
        self._sizes[name] = size

    def _cut(self, end: int) -> None:
        try:
            self._out.seek(end)
            self._out.truncate()
        except OSError:
            # On a full disk the flush that seek() implies fails again: what is in the file is then unknown.
            self._damaged = True


def _refuse_other_than_files(file: Path) -> None:
    """Return if *file* is absent or a plain one: a device or pipe would be replaced, not written to."""
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):  # else found out when all is written
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket")
