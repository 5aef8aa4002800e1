"""Manifests and indexes, parsed once from the very bytes that were verified.

The bytes are the identity: `raw` is kept, and nothing here serialises a manifest back. Strict where a second
reading of the same bytes could differ (a document that is manifest and index at once), tolerant where the
specification says so (unknown layer types, unknown fields).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry_client.digest import Digest, check_bytes, parse_digest, shorten
from registry_client.errors import DigestMismatch, ManifestInvalid, MediaTypeUnknown, ReferenceInvalid
from registry_client.media_type import INDEXES, MANIFESTS, MediaType, strip_parameters
from registry_client.platform import Platform

__all__ = ["Descriptor", "Index", "Manifest", "MediaType", "parse_descriptor", "parse_manifest"]

MANIFEST_LIMIT = 8 * 1024 * 1024
"""Largest manifest read, in bytes: twice what the distribution-spec asks registries to accept."""

_SIZE_LIMIT = 1 << 62  # an int64 that still can be added to


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What some content is and how to check it; `size` in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str | None = None

    def to_json(self) -> dict[str, Any]:
        """This descriptor as a member of a manifest or index; keys in the specification's order."""
        shown: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            shown["annotations"] = dict(self.annotations)
        if self.platform is not None:
            platform: dict[str, Any] = {"architecture": self.platform.architecture, "os": self.platform.os}
            if self.platform.os_version:
                platform["os.version"] = self.platform.os_version
            if self.platform.os_features:
                platform["os.features"] = list(self.platform.os_features)
            if self.platform.variant:
                platform["variant"] = self.platform.variant
            shown["platform"] = platform
        if self.artifact_type:
            shown["artifactType"] = self.artifact_type
        return shown


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform."""

    raw: bytes
    media_type: str
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    subject: Descriptor | None = None
    artifact_type: str | None = None

    def descriptor(self) -> Descriptor:
        """What an index or a tag says of this manifest."""
        return Descriptor(self.media_type, self.digest, len(self.raw), artifact_type=self.artifact_type)


@dataclass(frozen=True, slots=True)
class Index:
    """A list of manifests, usually one per platform; entries may be indexes again."""

    raw: bytes
    media_type: str
    digest: Digest
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    subject: Descriptor | None = None
    artifact_type: str | None = None

    def descriptor(self) -> Descriptor:
        """What a tag says of this index."""
        return Descriptor(self.media_type, self.digest, len(self.raw), artifact_type=self.artifact_type)


def parse_manifest(raw: bytes, media_type: str, digest: Digest) -> Manifest | Index:
    """*raw*, whose *digest* the caller has verified, as what *media_type* says it is.

    Raises:
        MediaTypeUnknown: neither manifest nor index of a known kind (schema 1 among them).
        ManifestInvalid: broken JSON, or content that contradicts the media type or the specification.
    """
    media_type = strip_parameters(media_type)
    if media_type not in INDEXES | MANIFESTS:
        raise MediaTypeUnknown(
            f"manifest {digest} is of type {shorten(media_type)!r}; "
            "only OCI and Docker schema 2 manifests and indexes are read"
        )
    document = load_json_object(raw, f"manifest {digest}")
    _refuse_two_meanings(document, media_type, digest)
    try:
        annotations = _string_map(document.get("annotations"))
        subject = document.get("subject")
        parsed_subject = None if subject is None else parse_descriptor(subject)
        artifact_type = _optional_text(document, "artifactType")
        if media_type in INDEXES:
            manifests = tuple(parse_descriptor(entry) for entry in _list(document, "manifests"))
            return Index(raw, media_type, digest, manifests, annotations, parsed_subject, artifact_type)
        config = parse_descriptor(document.get("config"))
        layers = tuple(parse_descriptor(entry) for entry in _list(document, "layers"))
    except (ManifestInvalid, ReferenceInvalid) as error:
        raise ManifestInvalid(f"manifest {digest} breaks the image specification: {error}") from error
    return Manifest(raw, media_type, digest, config, layers, annotations, parsed_subject, artifact_type)


def load_json_object(raw: bytes, what: str) -> dict[str, Any]:
    """*raw* as a JSON object; *what* names it in the error.

    Raises:
        ManifestInvalid: it is not one.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{what} is not JSON: {shorten(error)}") from error
    if not isinstance(document, dict):
        raise ManifestInvalid(f"{what} is a JSON {type(document).__name__}, expected an object")
    return document


def media_type_of(raw: bytes, stated: str, what: str) -> str:
    """The media type of a manifest that came with the type *stated* (may be empty or generic).

    What the bytes say of themselves fills in for a server that says nothing useful; two different useful
    statements are an error.

    Raises:
        ManifestInvalid: they contradict each other, or *raw* is not JSON.
    """
    stated = strip_parameters(stated)
    inside = load_json_object(raw, what).get("mediaType")
    if not isinstance(inside, str) or not inside:
        return stated
    if stated in INDEXES | MANIFESTS and inside != stated:
        raise ManifestInvalid(f"{what} calls itself {shorten(inside)!r} but was served as {stated!r}")
    return inside


def parse_descriptor(document: object) -> Descriptor:
    """A JSON object as a descriptor.

    Raises:
        ManifestInvalid, ReferenceInvalid: a field is missing or wrong (the latter: the digest).
    """
    if not isinstance(document, dict):
        raise ManifestInvalid(f"a descriptor is {type(document).__name__}, expected an object")
    media_type = document.get("mediaType")
    if not isinstance(media_type, str):
        raise ManifestInvalid("a descriptor lacks its mediaType")
    size = document.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _SIZE_LIMIT:
        raise ManifestInvalid(f"a descriptor has size {shorten(size)!r}, expected a number of bytes")
    digest = document.get("digest")
    if not isinstance(digest, str):
        raise ManifestInvalid("a descriptor lacks its digest")
    if "data" in document:
        _check_embedded(document["data"], parse_digest(digest), size)
    return Descriptor(
        media_type=media_type,
        digest=parse_digest(digest),
        size=size,
        annotations=_string_map(document.get("annotations")),
        platform=_parse_platform(document.get("platform")),
        artifact_type=_optional_text(document, "artifactType"),
    )


def _check_embedded(text: object, digest: Digest, size: int) -> None:
    """Content that a descriptor carries along must be what it promises, though we read it from its place."""
    try:
        embedded = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except ValueError:
        embedded = None
    if embedded is None:
        raise ManifestInvalid(f"the descriptor of {digest} carries data that is not base64")
    try:
        check_bytes(embedded, digest, size, "the data in a descriptor")
    except DigestMismatch as error:
        raise ManifestInvalid(str(error)) from error


def _refuse_two_meanings(document: dict[str, Any], media_type: str, digest: Digest) -> None:
    """One body must not be readable as two kinds of thing (containerd, `validateMediaType`)."""
    inside = document.get("mediaType")
    if inside not in (None, "", media_type):
        raise ManifestInvalid(
            f"manifest {digest} calls itself {shorten(inside)!r} but was announced as {media_type!r}"
        )
    if "fsLayers" in document:
        raise MediaTypeUnknown(
            f"manifest {digest} is of Docker's schema 1, which is not read; push the image again"
        )
    foreign = ("config", "layers") if media_type in INDEXES else ("manifests",)
    for name in foreign:
        if name in document:
            raise ManifestInvalid(f"manifest {digest} was announced as {media_type!r} but has {name!r}")
    if document.get("schemaVersion") != 2:
        raise ManifestInvalid(
            f"manifest {digest} has schemaVersion {shorten(document.get('schemaVersion'))!r}, expected 2"
        )


def _parse_platform(document: object) -> Platform | None:
    if document is None:
        return None
    if not isinstance(document, dict):
        raise ManifestInvalid("a descriptor's platform is not an object")
    features = document.get("os.features") or []
    if not isinstance(features, list) or not all(isinstance(one, str) for one in features):
        raise ManifestInvalid("a platform's os.features is not a list of strings")
    texts = {name: document.get(name) or "" for name in ("os", "architecture", "variant", "os.version")}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ManifestInvalid("a platform has a field that is not a string")
    return Platform(
        texts["os"], texts["architecture"], texts["variant"], texts["os.version"], tuple(features)
    )


def _string_map(document: object) -> dict[str, str]:
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise ManifestInvalid("annotations are not an object of strings")
    return dict(document)


def _list(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    # Go writes a nil slice as null; an empty index of distribution looks like that.
    if value is None and name in document:
        return []
    if not isinstance(value, list):
        raise ManifestInvalid(f"the field {name!r} is missing or not a list")
    return value


def _optional_text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise ManifestInvalid(f"the field {name!r} is not a string")
    return value or None
