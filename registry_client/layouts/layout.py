"""Reading an OCI image layout, be it a directory (`oci:`) or a tar (`oci-archive:`).

Follows image-spec `image-layout.md`. Writing is in `layout_writer` and `archive_writer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry_client.digest import Digest, algorithm, check_bytes, encoded, shorten, verify_stream
from registry_client.errors import DigestMismatch, LayoutInvalid, ManifestInvalid, NotFound, ReferenceInvalid
from registry_client.layouts.region import Region, Tree
from registry_client.manifest import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    load_json_object,
    media_type_of,
    parse_descriptor,
    parse_manifest,
)
from registry_client.reference import Reference
from registry_client.source import TaggedSource

MARKER = "oci-layout"
INDEX = "index.json"
VERSION = "1.0.0"
REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"  # what `ctr image export` writes beside the bare tag
_INDEX_LIMIT = 64 * 1024 * 1024


def blob_name(digest: Digest) -> str:
    """Where the content with *digest* lies within a layout."""
    return f"blobs/{algorithm(digest)}/{encoded(digest)}"


def read_index(tree: Tree) -> dict[str, Any]:
    """The layout's `index.json`, after a look at its version marker.

    Raises:
        NotFound: there is no layout.
        LayoutInvalid: it is broken, or of a version other than 1.0.0.
    """
    marker = tree.find(MARKER)
    region = tree.find(INDEX)
    if marker is None or region is None:
        missing = MARKER if marker is None else INDEX
        error = NotFound if marker is None and region is None else LayoutInvalid
        raise error(f"{tree.root} is not an OCI image layout: it has no file {missing}")
    version = _load(marker, f"{MARKER} of {tree.root}", 4096).get("imageLayoutVersion")
    if version != VERSION:
        raise LayoutInvalid(f"{tree.root} is a layout of version {shorten(version)!r}, not {VERSION}")
    index = _load(region, f"{INDEX} of {tree.root}", _INDEX_LIMIT)
    if not isinstance(index.get("manifests"), list):
        raise LayoutInvalid(f"{INDEX} of {tree.root} lists no manifests")
    return index


class LayoutSource(TaggedSource):
    """An image in a layout. Holds no file open between calls."""

    def __init__(self, reference: Reference, tree: Tree) -> None:
        self._reference = reference
        self._tree = tree

    def resolve(self) -> Descriptor:
        entries = [self._entry(document) for document in read_index(self._tree)["manifests"]]
        digest = self._reference.digest
        if digest is not None:
            listed = next((entry for entry in entries if entry.digest == digest), None)
            return listed or self._unlisted(digest)
        tag = self._reference.tag
        if tag is not None:
            for entry in entries:
                if tag in (entry.annotations.get(REF_NAME), entry.annotations.get(_FULL_NAME)):
                    return entry
            raise NotFound(f"{self._tree.root} has no image {tag!r}; it has {_names(entries)}")
        if len(entries) != 1:
            raise NotFound(
                f"{self._tree.root} has {len(entries)} images ({_names(entries)}): "
                f"name one as {self._reference.transport.value}:{self._tree.root}:TAG"
            )
        return entries[0]

    def tags(self) -> list[str]:
        entries = [self._entry(document) for document in read_index(self._tree)["manifests"]]
        return [name for entry in entries if (name := entry.annotations.get(REF_NAME)) is not None]

    def resolve_tag(self, tag: str) -> Descriptor:
        for document in read_index(self._tree)["manifests"]:
            if (entry := self._entry(document)).annotations.get(REF_NAME) == tag:
                return entry
        raise NotFound(f"{self._tree.root} has no image {tag!r}")

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        raw = self._read_document(descriptor.digest)
        what = f"manifest {descriptor.digest} in {self._tree.root}"
        check_bytes(raw, descriptor.digest, descriptor.size, what)
        return parse_manifest(raw, descriptor.media_type, descriptor.digest)

    def read_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        what = f"blob {descriptor.digest} in {self._tree.root}"
        region = self._find(descriptor.digest)
        return verify_stream(region.pieces(what, 0, region.size), descriptor.digest, descriptor.size, what)

    def read_at(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        what = f"blob {blob.digest} in {self._tree.root}"
        region = self._find(blob.digest)
        if region.size != blob.size:
            raise DigestMismatch(f"{what} has {region.size} bytes instead of the {blob.size} promised")
        return region.pieces(what, offset, size)

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self, digest: Digest) -> Region:
        region = self._tree.find(blob_name(digest))
        if region is None:
            raise NotFound(f"{self._tree.root} has no blob {digest}")
        return region

    def _read_document(self, digest: Digest) -> bytes:
        return self._find(digest).read(f"manifest {digest} in {self._tree.root}", MANIFEST_LIMIT)

    def _unlisted(self, digest: Digest) -> Descriptor:
        """A manifest that is only reachable through an index; its bytes say what it is."""
        raw = self._read_document(digest)
        what = f"manifest {digest} in {self._tree.root}"
        check_bytes(raw, digest, None, what)
        return Descriptor(media_type_of(raw, "", what), digest, len(raw))

    def _entry(self, document: object) -> Descriptor:
        try:
            return parse_descriptor(document)
        except (ManifestInvalid, ReferenceInvalid) as error:
            raise LayoutInvalid(f"{INDEX} of {self._tree.root} has a broken entry: {error}") from error


def _load(region: Region, what: str, limit: int) -> dict[str, Any]:
    try:
        return load_json_object(region.read(what, limit), what)
    except ManifestInvalid as error:
        raise LayoutInvalid(str(error)) from error


def _names(entries: list[Descriptor]) -> str:
    names = [entry.annotations.get(REF_NAME) or str(entry.digest) for entry in entries[:10]]
    return ", ".join(names) + (", …" if len(entries) > 10 else "") if names else "none"
