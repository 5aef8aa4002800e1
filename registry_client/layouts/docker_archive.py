"""Reading what `docker save` writes (`docker-archive:FILE[:NAME:TAG]`), the old form and the new one.

Such an archive has no manifest, so one is composed: Docker schema 2, its layers the tars as they lie there. A
plain tar's digest is the config's diff id, which reading the layer verifies; a compressed one is hashed once.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from registry_client.digest import Digest, digest_of, parse_digest, shorten, verify_stream
from registry_client.errors import DigestMismatch, LayoutInvalid, ManifestInvalid, NotFound, ReferenceInvalid
from registry_client.layouts.region import Region, TarTree
from registry_client.manifest import (
    MANIFEST_LIMIT,
    Descriptor,
    Index,
    Manifest,
    MediaType,
    load_json_object,
    parse_manifest,
)
from registry_client.reference import Reference, parse_reference

_TABLE = "manifest.json"


@dataclass(frozen=True, slots=True)
class _Composed:
    """The manifest made for the chosen image, and where the content it names lies."""

    manifest: Manifest
    regions: dict[Digest, Region]


class DockerArchiveSource:
    """One image of a docker archive; fulfils `ImageSource`. Holds no file open between calls."""

    def __init__(self, reference: Reference, tree: TarTree) -> None:
        self._tag = reference.tag
        self._tree = tree
        self._lock = threading.Lock()  # protects _composed; held while compressed layers are hashed
        self._composed: _Composed | None = None

    def resolve(self) -> Descriptor:
        return self._image().manifest.descriptor()

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        manifest = self._image().manifest
        if descriptor.digest != manifest.digest:
            raise NotFound(f"{self._tree.root} has no manifest {descriptor.digest}")
        return manifest

    def read_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        region, what = self._find(descriptor)
        return verify_stream(region.pieces(what, 0, region.size), descriptor.digest, descriptor.size, what)

    def read_at(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        region, what = self._find(blob)
        if region.size != blob.size:
            raise DigestMismatch(f"{what} has {region.size} bytes instead of the {blob.size} promised")
        return region.pieces(what, offset, size)

    def close(self) -> None:
        """Nothing is held open."""

    def _find(self, descriptor: Descriptor) -> tuple[Region, str]:
        region = self._image().regions.get(descriptor.digest)
        if region is None:
            raise NotFound(f"{self._tree.root} has no blob {descriptor.digest}")
        return region, f"blob {descriptor.digest} in {self._tree.root}"

    def _image(self) -> _Composed:
        with self._lock:
            if self._composed is None:
                self._composed = self._compose(self._choose())
            return self._composed

    def _choose(self) -> dict[str, Any]:
        raw = self._member(_TABLE).read(f"{_TABLE} of {self._tree.root}", MANIFEST_LIMIT)
        try:
            table = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise LayoutInvalid(f"{_TABLE} of {self._tree.root} is not JSON: {shorten(error)}") from error
        if not isinstance(table, list) or not table or not all(isinstance(one, dict) for one in table):
            raise LayoutInvalid(f"{_TABLE} of {self._tree.root} is not a list of images")
        if self._tag is None:
            if len(table) > 1:
                raise NotFound(
                    f"{self._tree.root} has {len(table)} images ({_names(table)}): "
                    f"name one as docker-archive:{self._tree.root}:NAME:TAG"
                )
            return dict(table[0])
        wanted = _full_name(self._tag)
        for image in table:
            if any(_full_name(name) == wanted for name in _repo_tags(image)):
                return dict(image)
        raise NotFound(f"{self._tree.root} has no image {self._tag!r}; it has {_names(table)}")

    def _compose(self, image: dict[str, Any]) -> _Composed:
        listed = image.get("Layers") or []
        names = [image.get("Config"), *(listed if isinstance(listed, list) else [None])]
        if not all(isinstance(name, str) for name in names):
            raise LayoutInvalid(f"{_TABLE} of {self._tree.root} names no config or has broken layers")
        config_region = self._member(names[0])
        config = config_region.read(f"the image config in {self._tree.root}", MANIFEST_LIMIT)
        diff_ids = self._diff_ids(config)
        if len(diff_ids) != len(names) - 1:
            raise LayoutInvalid(
                f"{self._tree.root} has {len(names) - 1} layers but its config lists {len(diff_ids)}"
            )
        regions = {digest_of(config): config_region}
        layers = []
        for name, diff_id in zip(names[1:], diff_ids, strict=True):
            region = self._member(name)
            media_type, digest = self._describe(region, name, diff_id)
            layers.append(Descriptor(media_type, digest, region.size))
            regions[digest] = region
        document = {
            "schemaVersion": 2,
            "mediaType": MediaType.DOCKER_MANIFEST,
            "config": Descriptor(MediaType.DOCKER_CONFIG, digest_of(config), len(config)).to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        raw = json.dumps(document, separators=(",", ":")).encode()
        manifest = parse_manifest(raw, MediaType.DOCKER_MANIFEST, digest_of(raw))
        assert isinstance(manifest, Manifest)
        return _Composed(manifest, regions)

    def _diff_ids(self, config: bytes) -> list[Digest]:
        what = f"the image config in {self._tree.root}"
        try:
            rootfs = load_json_object(config, what).get("rootfs")
            diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
            if not isinstance(diff_ids, list):
                raise LayoutInvalid(f"{what} lists no diff_ids")
            return [parse_digest(diff_id) for diff_id in diff_ids]
        except (ManifestInvalid, ReferenceInvalid) as error:
            raise LayoutInvalid(f"{what} is broken: {error}") from error

    def _describe(self, region: Region, name: str, diff_id: Digest) -> tuple[str, Digest]:
        what = f"layer {name} in {self._tree.root}"
        magic = b"".join(region.pieces(what, 0, min(4, region.size)))
        if magic.startswith(b"\x1f\x8b"):
            media_type = MediaType.DOCKER_LAYER_GZIP
        elif magic == b"\x28\xb5\x2f\xfd":
            media_type = MediaType.DOCKER_LAYER_ZSTD
        else:
            return MediaType.DOCKER_LAYER, diff_id
        found = hashlib.sha256()
        for piece in region.pieces(what, 0, region.size):
            found.update(piece)
        return media_type, Digest(f"sha256:{found.hexdigest()}")

    def _member(self, name: str) -> Region:
        region = self._tree.find(name)
        if region is None:
            raise LayoutInvalid(f"{self._tree.root} is not a docker archive: it has no member {name!r}")
        return region


def _repo_tags(image: dict[str, Any]) -> list[str]:
    listed = image.get("RepoTags")
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def _full_name(name: str) -> str:
    try:
        return str(parse_reference(f"docker://{name}"))
    except ReferenceInvalid:
        return name


def _names(table: list[dict[str, Any]]) -> str:
    return ", ".join(name for image in table for name in _repo_tags(image)) or "images without a name"
