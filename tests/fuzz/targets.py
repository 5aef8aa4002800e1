"""What is fuzzed: one function of bytes for each parser, with the errors it may answer with, and seeds.

Any other exception, a run of more than a few seconds and more memory than the limit of `__main__` are faults.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import zstandard

from builder.bootstrap_layer_reader import BootstrapLayerInvalid, meta_name, read_bootstrap_layer
from builder.errors import BuildError
from builder.hot.elf import read_needs
from builder.hot.python_source import imported_names
from builder.image_documents import read_config
from builder.layer_record import RecordInvalid, decode
from builder.layers.layer_stream import plain_pieces
from builder.layers.tar_index import read_entries
from builder.layers.tar_stream import TarStream
from launch.errors import ConfigInvalid
from launch.images.image_config import parse_config
from rafs.blob_meta import BlobMeta, parse_blob_meta, read_chunk_info
from rafs.blob_record import blob_record, broken_rules
from rafs.bootstrap import Bootstrap
from rafs.check import check_blob_meta, check_bootstrap, check_chunks
from rafs.check_entries import check_entries
from rafs.codes import Compressor
from rafs.decompress import decompress
from rafs.digests import chunk_digest
from rafs.dump import dump_lines
from rafs.errors import RafsError
from rafs.inflate_index import InflatePoint, InflateStream
from rafs.inlined import inlined_bootstrap
from rafs.localise import localise
from rafs.localised import read_devices
from rafs.records import BLOB_ENTRY
from rafs.tarfs import tar_blob, tar_pieces, with_chunks
from rafs.toc import parse_toc
from rafs.windows import cut_windows
from registry_client import open_source
from registry_client.digest import Digest, digest_of
from registry_client.errors import RegistryError
from registry_client.manifest import Manifest, MediaType, parse_manifest
from registry_client.options import RegistryOptions
from registry_client.platform import Platform
from registry_client.reference import parse_reference
from registry_client.selection import find_manifest
from registry_client.transport.challenge import parse_challenges
from tests.builder.tar_bytes import END, long_link, long_name, member, pax
from tests.builder.test_tar_index import old_sparse, sparse_0_0, sparse_0_1, sparse_1_0
from tests.support.deflate_blocks import blocks_of
from tests.support.fixtures import FIXTURES
from tests.support.images import image_of
from tests.support.trees import directory, file, symlink, tree

_LINES: int = 20_000  # of a dump: a hostile directory may name another a million times
_CHUNKS: int = 1 << 12
_PLAIN: int = 1 << 24  # bytes
_ENTRY: int = 256  # bytes of the blob table's entry that goes before chunk info
_PLATFORM = Platform("linux", "amd64")
_SIZES = struct.Struct("<II")  # of a bootstrap and of chunk info; digests of chunks are the rest
_TAR = bytes(256 << 10)
_POINT = struct.Struct("<BBHI")  # bits and their value, size of the dictionary, size of the output


@dataclass(frozen=True, slots=True)
class Target:
    """*run* raises one of *errors* or nothing."""

    run: Callable[[bytes], None]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Iterator[bytes]]


def _bootstrap(raw: bytes) -> None:
    findings = check_bootstrap(raw)
    assert all(found.rule for found in findings)
    image = Bootstrap(raw)
    for _ in itertools.islice(dump_lines(image), _LINES):
        pass


def _bootstraps() -> Iterator[bytes]:
    yield from _files("nydus/vectors/*/image.boot", limit=64 << 10)
    yield from _files("nydus/*/*.boot", limit=64 << 10)


def _chunk_info(raw: bytes) -> None:
    record = blob_record(BLOB_ENTRY.unpack(raw))
    if any(broken_rules(record, record.chunk_size)):
        return  # no bootstrap with such a record is opened
    digests = bytes(32 * min(record.chunk_count, _CHUNKS))
    array = raw[_ENTRY:]
    check_blob_meta(record, array, digests)
    meta = BlobMeta(record, read_chunk_info(record, array), digests)
    for index in range(min(meta.chunk_count, _CHUNKS)):
        assert meta.chunk(index).size <= meta.unit(meta.unit_of_chunk(index)).uncompressed_size
    for index in range(min(meta.unit_count, _CHUNKS)):
        meta.inflate_point(meta.unit(index))


def _chunk_infos() -> Iterator[bytes]:
    for boot in sorted(FIXTURES.glob("nydus/vectors/*/image.boot")):
        with suppress(RafsError, OSError):
            for record in Bootstrap(boot.read_bytes()).blobs:
                for name in (record.id, record.meta_object):
                    for path in boot.parent.rglob(name):
                        stored = path.read_bytes()[record.ci_offset :][: record.ci_compressed_size]
                        if stored:
                            yield BLOB_ENTRY.pack(record.entry()) + stored


def _image(raw: bytes) -> None:
    """A bootstrap, and chunk info that all its blobs share: on the way to the kernel."""
    if len(raw) < _SIZES.size:
        return
    boot_size, info_size = _SIZES.unpack_from(raw)
    boot, rest = raw[_SIZES.size :][:boot_size], raw[_SIZES.size + boot_size :]
    if check_bootstrap(boot):
        return
    bootstrap = Bootstrap(boot)
    metas = [parse_blob_meta(record, rest[:info_size], rest[info_size:]) for record in bootstrap.blobs]
    if check_chunks(boot, metas):
        return
    windows = [cut_windows(meta) for meta in metas]
    devices = read_devices(localise(bootstrap, metas, windows))
    assert {device.id for device in devices} == {window.id for cut in windows for window in cut}


def _images() -> Iterator[bytes]:
    inner = directory(b"d", file(b"f", b"words " * 3000), symlink(b"l", b"f"))
    for root in (tree(file(b"a", b"few")), tree(inner, file(b"g", bytes(range(256)) * 80))):
        image = image_of(root, chunk_size=4096, batch_size=16 << 10)
        form, digests = image.blobs[0].cache_form(), image.blobs[0].digests
        yield _SIZES.pack(len(image.bootstrap), len(form)) + image.bootstrap + form + digests


def _tar_image(raw: bytes) -> None:
    """A bootstrap over plain tars, on the way to the kernel; what is in the tars does not matter."""
    bootstrap = Bootstrap(raw)
    if not bootstrap.is_tarfs:
        return
    name = hashlib.sha256(_TAR).hexdigest()
    metas = [
        tar_blob(replace(record, id=name), [_TAR], pieces)
        for record, pieces in zip(bootstrap.blobs, tar_pieces(bootstrap), strict=True)
    ]
    image = with_chunks(bootstrap, metas)
    check_entries(image, metas)
    if not check_bootstrap(raw):
        localise(image, metas, [cut_windows(meta) for meta in metas])


def _tar_images() -> Iterator[bytes]:
    yield from _files("nydus/vectors/tarfs/image.boot", limit=64 << 10)


def _stretch(raw: bytes) -> None:
    """A point of an index of a tar.gz, and what lies there."""
    if len(raw) < _POINT.size:
        return
    bits, value, known, size = _POINT.unpack_from(raw)
    bits, value = bits & 7, value & (1 << (bits & 7)) - 1
    dictionary, stored = raw[_POINT.size :][:known], raw[_POINT.size + known :]
    size = size % _PLAIN + 1
    stream = InflateStream(InflatePoint(0, len(stored), size, bits, value, dictionary))
    found = sum(len(stream.feed(stored[at : at + 999], last=False)) for at in range(0, len(stored), 999))
    found += len(stream.feed(b"", last=True))
    assert stream.finished and found == size


def _stretches() -> Iterator[bytes]:
    packed = gzip.compress(b"".join(b"line %d of many\n" % number for number in range(3000)))
    packed += gzip.compress(b"and more")
    blocks, content = blocks_of(packed)
    for block in blocks:
        first, bits = -(-block.start // 8), -block.start % 8
        value = packed[first - 1] >> 8 - bits if bits else 0
        known = content[max(0, block.out_start - (32 << 10)) : block.out_start]
        size = len(content) - block.out_start - 1
        yield _POINT.pack(bits, value, len(known), size) + known + packed[first:]


def _table_of_contents(raw: bytes) -> None:
    for section in parse_toc(raw).values():
        if section.size <= _PLAIN:
            section.unpack(raw[section.offset : section.offset + section.stored_size])


def _inlined(raw: bytes) -> None:
    inlined_bootstrap(len(raw), lambda offset, size: raw[offset : offset + size])


def _tables() -> Iterator[bytes]:
    for raw in _files("nydus/*/*", limit=256 << 10):
        with suppress(RafsError):
            if parse_toc(raw[-1024:]):
                yield raw[-1024:]
    for raw in _objects():
        yield raw[-1024:]
        yield raw[-1152:]


def _objects() -> Iterator[bytes]:
    yield from _files("nydus/vectors/*/blobs/*", limit=32 << 10)
    yield from _files("nydus/toc/*", limit=64 << 10)


def _unit(raw: bytes) -> None:
    """The first bytes choose the compressor and the promised size."""
    compressor = list(Compressor)[raw[0] % len(Compressor)] if raw else Compressor.NONE
    size = int.from_bytes(raw[1:4], "little") % (1 << 20) + 1
    assert len(decompress(compressor, raw[4:], size)) == size


def _units() -> Iterator[bytes]:
    content = b"words and words and words " * 40
    for number, compressor in enumerate(Compressor):
        size = len(content).to_bytes(3, "little")
        packed = {
            Compressor.ZSTD: zstandard.ZstdCompressor(write_checksum=True).compress(content),
            Compressor.GZIP: gzip.compress(content),
        }.get(compressor, content)
        yield bytes([number]) + size + packed


def _layer(raw: bytes) -> None:
    size = 0
    for piece in plain_pieces([raw[at : at + 999] for at in range(0, len(raw), 999)], "fuzzed").pieces:
        size += len(piece)
        if size > _PLAIN:
            break


def _layers() -> Iterator[bytes]:
    plain = next(_tars())
    yield from (plain, gzip.compress(plain), zstandard.compress(plain))
    yield gzip.compress(plain[:700]) + gzip.compress(plain[700:]) + bytes(20)


def _bootstrap_layer(raw: bytes) -> None:
    if not raw.startswith(zstandard.FRAME_HEADER):  # of which these few bytes can hold the gigabyte allowed
        read_bootstrap_layer([raw], "fuzzed")


def _bootstrap_layers() -> Iterator[bytes]:
    members = member(b"image/image.boot", b"b" * 700) + member(meta_name("ab" * 32).encode(), b"m" * 9)
    for plain in (members + END, pax((b"path", b"./image/image.boot")) + members + END):
        yield from (plain, gzip.compress(plain))


def _archive(raw: bytes) -> None:
    """Either kind of archive: an OCI layout in a tar, and what `docker save` writes."""
    descriptor = os.memfd_create("fuzzed")
    try:
        os.write(descriptor, raw)
        path = f"/proc/self/fd/{descriptor}"
        for transport in ("oci-archive", "docker-archive"):
            with suppress(RegistryError):
                source = open_source(parse_reference(f"{transport}:{path}"), RegistryOptions())
                manifest = find_manifest(source, _PLATFORM)
                for blob in (manifest.config, *manifest.layers):
                    assert len(b"".join(source.read_blob(blob))) == blob.size
    finally:
        os.close(descriptor)


def _archives() -> Iterator[bytes]:
    layer, config = b"layer", json.dumps({"rootfs": {"diff_ids": [digest_of(b"layer")]}}).encode()
    table = [{"Config": "c", "RepoTags": ["a:b"], "Layers": ["d/l"]}]
    docker = member(b"manifest.json", json.dumps(table).encode()) + member(b"c", config)
    yield docker + member(b"d/l", layer) + END
    yield docker + member(b"l", layer) + member(b"d/l", kind=b"2", link=b"../l") + END
    listed = {"mediaType": MediaType.OCI_MANIFEST, "digest": digest_of(config), "size": len(config)}
    yield (
        member(b"oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        + member(b"index.json", json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode())
        + member(f"blobs/sha256/{digest_of(config)[7:]}".encode(), config)
        + END
    )
    yield pax((b"path", b"manifest.json")) + member(b"x", b"[]") + long_name(b"c" * 200) + member(b"y") + END
    for write in (old_sparse, sparse_1_0):
        yield write([(0, 3), (4096, 2)], 5000, b"abcde") + docker + END


def _tar(raw: bytes) -> None:
    for _ in read_entries(TarStream(iter([raw])), "fuzzed", chunk_size=4096, take=chunk_digest):
        pass


def _tars() -> Iterator[bytes]:
    head = pax((b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"b"), (b"LIBARCHIVE.xattr.user.c", b"ZA=="))
    yield head + member(b"a/b", b"body") + member(b"l", kind=b"2", link=b"a") + END
    yield long_name(b"n" * 200) + member(b"x", b"1" * 600) + END
    yield long_link(b"t" * 150) + member(b"h", kind=b"1") + END
    for write in (old_sparse, sparse_0_0, sparse_0_1, sparse_1_0):
        yield write([(0, 3), (4096, 2)], 5000, b"abcde") + END


def _record(raw: bytes) -> None:
    decode(raw)


def _records() -> Iterator[bytes]:
    undo = {"runs": [1, 2], "entries": [["a", "b"], ["c", [33188, 0, 0, 1, 2, 0, 5], "", {}, [[0, 1, 1]]]]}
    layer = {"diff_id": "sha256:a", "blob": 0, "tar_bytes": 1, "files": 1, "dropped": {"x": 1}, "undo": undo}
    looks = {"k": {"line": "aa=="}}
    yield json.dumps({"blobs": ["a"], "layers": [layer], "looks": looks, "hot": 0}).encode()


def _document(raw: bytes) -> None:
    """Manifests, indexes and configs, whichever it may be."""
    for media_type in (MediaType.OCI_MANIFEST, MediaType.OCI_INDEX, MediaType.DOCKER_MANIFEST):
        with suppress(RegistryError):
            found = parse_manifest(raw, media_type, digest_of(raw))
            if isinstance(found, Manifest):
                with suppress(BuildError):
                    read_config(found, raw)
    document = json.loads(raw)
    if isinstance(document, dict):
        parse_config(document)


def _documents() -> Iterator[bytes]:
    entry = {"mediaType": MediaType.OCI_LAYER_GZIP, "digest": f"sha256:{'a' * 64}", "size": 3}
    config = {**entry, "mediaType": MediaType.OCI_CONFIG}
    yield json.dumps(
        {"schemaVersion": 2, "mediaType": MediaType.OCI_MANIFEST, "config": config, "layers": [entry]}
    ).encode()
    platform = {"os": "linux", "architecture": "amd64", "os.features": ["a"]}
    listed = {**entry, "mediaType": MediaType.OCI_MANIFEST, "platform": platform}
    index = {"schemaVersion": 2, "mediaType": MediaType.OCI_INDEX, "manifests": [listed]}
    yield json.dumps(index).encode()
    run = {"Cmd": ["a"], "Env": ["A=b"], "WorkingDir": "/", "User": "1:2"}
    yield json.dumps({"config": run, "rootfs": {"diff_ids": []}, "os": "linux"}).encode()


def _program(raw: bytes) -> None:
    read_needs(lambda offset, size: raw[offset : offset + size])
    imported_names(raw, "package.inner")


def _programs() -> Iterator[bytes]:
    yield b"from . import a\nimport b.c as d, e\ntry:\n  from x import (y,\n z)\nif TYPE_CHECKING:\n"
    yield Path("/bin/true").read_bytes()[: 48 << 10]


def _words(raw: bytes) -> None:
    """What comes as text: references, and what a registry says of authentication."""
    text = raw.decode("utf-8", "surrogateescape")
    parse_challenges(text.split("\n"))
    parse_reference(text)


def _texts() -> Iterator[bytes]:
    yield b'Bearer realm="https://a/token",service="a",scope="repository:x:pull"\nBasic realm=x'
    digest: Digest = digest_of(b"")
    yield from (f"registry.example:5000/a/b:1@{digest}".encode(), b"oci:/d:t", b"docker://a/b", b"rafs:/x")


def _files(pattern: str, *, limit: int) -> Iterator[bytes]:
    for path in sorted(FIXTURES.glob(pattern)):
        if path.is_file() and path.stat().st_size <= limit:
            yield path.read_bytes()


TARGETS = {
    "bootstrap": Target(_bootstrap, (RafsError,), _bootstraps),
    "chunk-info": Target(_chunk_info, (RafsError,), _chunk_infos),
    "image": Target(_image, (RafsError,), _images),
    "tar-image": Target(_tar_image, (RafsError,), _tar_images),
    "inflate": Target(_stretch, (RafsError,), _stretches),
    "toc": Target(_table_of_contents, (RafsError,), _tables),
    "inlined": Target(_inlined, (RafsError,), _objects),
    "unit": Target(_unit, (RafsError,), _units),
    "layer": Target(_layer, (BuildError,), _layers),
    "bootstrap-layer": Target(_bootstrap_layer, (BootstrapLayerInvalid,), _bootstrap_layers),
    "archive": Target(_archive, (), _archives),
    "tar": Target(_tar, (BuildError,), _tars),
    "record": Target(_record, (RecordInvalid,), _records),
    "documents": Target(_document, (ValueError, RecursionError, ConfigInvalid), _documents),
    "program": Target(_program, (), _programs),
    "words": Target(_words, (RegistryError,), _texts),
}
