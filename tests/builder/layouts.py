"""OCI layouts made from tars, and what a converted image in a layout shows, read back by `rafs`."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.convert import convert
from builder.convert_options import ConvertOptions
from builder.progress import Progress
from builder.report import ConvertReport
from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.check import check_bootstrap, check_chunks
from rafs.units import decode_unit
from registry_client import open_destination, open_source
from registry_client.manifest import MediaType
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference

DIFF = "containerd.io/snapshot/nydus-"


def digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


@lru_cache(maxsize=16)  # many images have layers in common
def gzipped(raw: bytes) -> bytes:
    return gzip.compress(raw, 1, mtime=0)


class Layout:
    """An OCI layout in *directory*, written without the code under test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._entries: list[dict[str, Any]] = []
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add_image(
        self,
        tars: Sequence[bytes],
        *,
        tag: str | None = "app",
        config: Mapping[str, Any] | None = None,
        media_type: str = MediaType.OCI_LAYER_GZIP,
        store: Callable[[bytes], bytes] = gzipped,
        document: Mapping[str, Any] | None = None,
        docker: bool = False,
    ) -> dict[str, Any]:
        """An image of *tars*; *config* is its run configuration, *document* is laid over the config."""
        whole = {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            "history": [{"created_by": f"layer {number}"} for number in range(len(tars))],
            **(document or {}),
        }
        kind = MediaType.DOCKER_CONFIG if docker else MediaType.OCI_CONFIG
        manifest = {
            "schemaVersion": 2,
            "mediaType": MediaType.DOCKER_MANIFEST if docker else MediaType.OCI_MANIFEST,
            "config": self.put(json.dumps(whole).encode(), kind),
            "layers": [self.put(store(tar), media_type) for tar in tars],
        }
        return self.add_document(manifest, tag)

    def add_index(self, entries: Iterable[Mapping[str, Any]], tag: str = "app") -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": list(entries)}
        return self.add_document(document, tag)

    def add_document(self, document: Mapping[str, Any], tag: str | None) -> dict[str, Any]:
        entry = self.put(json.dumps(document).encode(), document["mediaType"])
        if tag is not None:
            named = {"annotations": {"org.opencontainers.image.ref.name": tag}}
            self._entries.append({**entry, **named})
        index = {"schemaVersion": 2, "manifests": self._entries}
        (self.directory / "index.json").write_text(json.dumps(index))
        return entry

    def put(self, raw: bytes, media_type: str) -> dict[str, Any]:
        self.blob(digest_of(raw)).write_bytes(raw)
        return {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}

    def blob(self, digest: str) -> Path:
        return self.directory / "blobs" / "sha256" / digest.partition(":")[2]


def convert_layout(
    source: Path, destination: Path, options: ConvertOptions | None = None, progress: Progress | None = None
) -> ConvertReport:
    """Convert `source:app` to `destination:lazy`, both layouts."""
    opened = open_source(parse_reference(f"oci:{source}:app"), RegistryOptions())
    published = open_destination(parse_reference(f"oci:{destination}:lazy"), RegistryOptions())
    try:
        return convert(opened, published, tag="lazy", options=options or ConvertOptions(), progress=progress)
    finally:
        published.close()
        opened.close()


@dataclass(frozen=True, slots=True)
class ShownFile:
    """One path of a converted image."""

    mode: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    nlink: int
    rdev: int
    target: bytes
    xattrs: Mapping[bytes, bytes]
    content: bytes
    nid: int


class Published:
    """A converted image in the layout *directory*, taken apart and checked."""

    def __init__(self, directory: Path, digest: str | None = None) -> None:
        self.directory = directory
        index = json.loads((directory / "index.json").read_text())
        self.digest = digest or index["manifests"][-1]["digest"]
        self.manifest = json.loads(self.blob(self.digest))
        self.config = json.loads(self.blob(self.manifest["config"]["digest"]))
        last = self.manifest["layers"][-1]
        self.layer_tar = gzip.decompress(self.blob(last["digest"]))
        with tarfile.open(fileobj=io.BytesIO(self.layer_tar)) as archive:
            self.members = archive.getmembers()
            self.files = {
                member.name: opened.read()
                for member in self.members
                if (opened := archive.extractfile(member)) is not None
            }
        self.bootstrap = Bootstrap(self.files["image/image.boot"])
        self.metas = [
            parse_blob_meta(
                record,
                self.files[f"image/{record.id}.blob.meta"],
                self.bootstrap.chunk_digests(record.index),
            )
            for record in self.bootstrap.blobs
        ]

    def blob(self, digest: str) -> bytes:
        return (self.directory / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()

    def findings(self) -> list[object]:
        """What the checker says; every unit is decoded, too, which verifies each chunk."""
        for meta in self.metas:
            _address_space(meta, self.blob(f"sha256:{meta.id}"))
        raw = self.files["image/image.boot"]
        return [*check_bootstrap(raw), *check_chunks(raw, self.metas)]

    def shown(self) -> dict[bytes, ShownFile]:
        """Every path with its attributes and bytes."""
        spaces = [_address_space(meta, self.blob(f"sha256:{meta.id}")) for meta in self.metas]
        found = {}
        for path, inode in self.bootstrap.walk():
            content = b""
            if stat.S_ISREG(inode.mode):
                content = b"".join(
                    spaces[extent.blob_index][extent.blob_offset : extent.blob_offset + extent.size]
                    for extent in self.bootstrap.extents(inode)
                )
                assert len(content) == inode.size
            found[path] = ShownFile(
                mode=inode.mode,
                uid=inode.uid,
                gid=inode.gid,
                mtime=inode.mtime,
                mtime_ns=inode.mtime_ns,
                nlink=inode.nlink,
                rdev=inode.rdev,
                target=self.bootstrap.symlink_target(inode) if stat.S_ISLNK(inode.mode) else b"",
                xattrs=self.bootstrap.xattrs(inode),
                content=content,
                nid=inode.nid,
            )
        return found

    def path_of(self, nid: int) -> bytes:
        return next(path for path, inode in self.bootstrap.walk() if inode.nid == nid)


def _address_space(meta: BlobMeta, blob: bytes) -> bytearray:
    space = bytearray(meta.uncompressed_size)
    for number in range(meta.unit_count):
        unit = meta.unit(number)
        stored = blob[unit.compressed_offset : unit.compressed_offset + unit.compressed_size]
        content = decode_unit(meta, unit, stored)
        for index in range(unit.first_chunk, unit.first_chunk + unit.chunk_count):
            chunk = meta.chunk(index)
            space[chunk.offset : chunk.offset + chunk.size] = content[
                chunk.unit_offset : chunk.unit_offset + chunk.size
            ]
    return space
