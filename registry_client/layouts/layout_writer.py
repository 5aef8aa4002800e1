"""Writing an image into an OCI layout directory (`oci:DIR[:TAG]`), beside what others put there.

Whatever has its final name is complete: blobs go through a temporary name, are verified while they are
copied, synced and renamed. `index.json` is changed under a lock on the directory itself, so concurrent
writers lose nothing.

died when                    -> found what                     -> who repairs it
copying a blob               -> `.partial-*` in blobs/<alg>    -> nobody needs to; never read, safe to delete
before index.json renamed    -> blobs no manifest leads to     -> the next run finds and uses them
taking an empty layout away  -> index.json without its marker  -> the next run makes the marker anew
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from registry_client.digest import VerifyingReader, digest_of
from registry_client.errors import LayoutUnusable, write_error
from registry_client.layouts.layout import INDEX, MARKER, REF_NAME, VERSION, blob_name, read_index
from registry_client.layouts.region import PIECE, DirectoryTree
from registry_client.manifest import Descriptor, Index, MediaType, parse_manifest
from registry_client.sizes import megabytes

EMPTY_INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": []}
_PARTIAL = ".partial-"
MARKER_TEXT = json.dumps({"imageLayoutVersion": VERSION}).encode()


class LayoutDestination:
    """A layout directory, made when it is absent; fulfils `ImageDestination`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = DirectoryTree(root)
        self._new = False  # the layout is ours, and what is in it
        self._made: list[Path] = []
        try:
            try:
                self._made = [path for path in (root, *root.parents) if not path.exists()]
                root.mkdir(parents=True, exist_ok=True)
                with _locked(root):
                    self._begin()
            except OSError as error:
                raise write_error(f"cannot write an image layout to {root}", error, root) from error
            read_index(self._tree)
        except BaseException:
            self.close()
            raise

    def has_blob(self, descriptor: Descriptor) -> bool:
        region = self._tree.find(blob_name(descriptor.digest))
        return region is not None and region.size == descriptor.size

    def put_blob(self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> None:
        if self.has_blob(descriptor):
            return
        what = f"blob {descriptor.digest} ({megabytes(descriptor.size)})"
        with open_blob() as opened, self._translated(what):
            reader = VerifyingReader(opened, descriptor.digest, descriptor.size)
            _write_stream(self._root / blob_name(descriptor.digest), reader)

    def put_manifest(self, raw: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        digest = digest_of(raw)
        document = parse_manifest(raw, media_type, digest)
        descriptor = document.descriptor()
        with self._translated(f"manifest {digest}"):
            _write_file(self._root / blob_name(digest), raw)
            with _locked(self._root):
                self._begin()  # who made it and put nothing may have taken it away
                index = read_index(self._tree)
                index["manifests"] = replace_entry(index["manifests"], document.descriptor(), tag, document)
                _write_file(self._root / INDEX, json.dumps(index).encode())
        return descriptor

    def close(self) -> None:
        """Take a new layout away in which nothing is: else everything was complete already."""
        with suppress(OSError):
            if self._new:
                with _locked(self._root):
                    self._remove_if_empty()
            for path in self._made:
                with suppress(FileNotFoundError):
                    path.rmdir()

    def _begin(self) -> None:
        """Make the directory a layout, unless it is one. Under its lock."""
        if (self._root / MARKER).exists():
            return
        _refuse_strangers(self._root)
        self._new = True
        if not (self._root / INDEX).exists():
            _write_file(self._root / INDEX, json.dumps(EMPTY_INDEX).encode())
        _write_file(self._root / MARKER, MARKER_TEXT)

    def _remove_if_empty(self) -> None:
        """Under the lock."""
        blobs = self._root / "blobs"
        for directory in (*blobs.glob("*"), blobs):
            with suppress(FileNotFoundError):
                directory.rmdir()  # fails where a blob is, which the next conversion finds
        # In this order: a marker alone would be a broken layout.
        for name in (MARKER, INDEX):
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(f"cannot write {what} to {self._root}", error, self._root) from error


def _refuse_strangers(root: Path) -> None:
    """Whoever mistypes a directory does not want an image in the middle of other things."""
    ours = ("blobs", INDEX)
    for path in root.iterdir():
        if path.name not in ours and not path.name.startswith(_PARTIAL):
            raise LayoutUnusable(
                f"{root} is not an OCI image layout and not empty (it has {path.name!r}); "
                "name an empty or a new directory"
            )


def replace_entry(
    entries: list[Any], descriptor: Descriptor, tag: str | None, document: object
) -> list[dict[str, Any]]:
    """`index.json`'s list after *descriptor* was put under *tag*: the tag's old entry gives way.

    Without a tag the entry has no name; it is dropped again once an index that lists it is put, since it can
    be reached through that. Entries of others stay as they are, byte for byte of their JSON.
    """
    children = {entry.digest for entry in document.manifests} if isinstance(document, Index) else set()

    def stays(entry: Any) -> bool:
        name = (entry.get("annotations") or {}).get(REF_NAME) if isinstance(entry, dict) else None
        if name is None and isinstance(entry, dict):
            return entry.get("digest") not in {descriptor.digest, *children}
        return name != tag

    fresh = descriptor.to_json()
    if tag is not None:
        fresh["annotations"] = {REF_NAME: tag}
    kept = [entry for entry in entries if stays(entry)]
    named_already = tag is None and any(
        isinstance(entry, dict) and entry.get("digest") == descriptor.digest for entry in kept
    )
    return kept if named_already else [*kept, fresh]


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _finished_file(path) as opened:
        opened.write(content)


def _write_stream(path: Path, reader: VerifyingReader) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _finished_file(path) as opened:
        shutil.copyfileobj(reader, opened, PIECE)


@contextmanager
def _finished_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that gets the name *path* only when the block was left without an exception."""
    descriptor, name = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
            os.fchmod(opened.fileno(), 0o644)
        Path(name).rename(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(name).unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in *directory* survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """The lock on *root*: protects index.json of one layout against other processes and threads."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
