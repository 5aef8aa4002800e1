"""The small documents of images, kept below ROOT/images by manifest digest: known images need no network.

A directory is made under another name, synced, and renamed, so one that has its name is complete. Its bytes
are verified again whenever it is opened: manifest and config by their own digests, the rest by what was noted
when the layer they came from was verified. A directory that fails is dropped and fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import cast

from chunk_store.sums import sync_directory
from launch.root import state_directory
from launch.whole_file import read_json_object, write_synced, write_whole
from registry_client.digest import Digest, check_bytes, digest_of
from registry_client.errors import RegistryError
from registry_client.manifest import Manifest, parse_manifest
from registry_client.platform import Platform
from registry_client.reference import Reference

log = logging.getLogger("nopull.images")

MANIFEST, CONFIG, BOOTSTRAP, NOTES = "manifest.json", "config.json", "image.boot", "notes.json"
META_SUFFIX, DIGEST_SUFFIX = ".blob.meta", ".blob.digest"
_DRAFT = ".draft-"


@dataclass(frozen=True, slots=True)
class Documents:
    """What there is of an image besides its blobs; all of it verified."""

    manifest: Manifest
    config: bytes
    bootstrap: bytes  # a mapping where it is kept: several megabytes that the kernel can take back
    metas: Mapping[str, bytes]  # chunk info in cache form by blob id
    digests: Mapping[str, bytes]  # of chunks, by blob id, where the bootstrap lacks some


@dataclass(frozen=True, slots=True)
class KeptDocuments(Documents):
    """Documents in the cache."""

    directory: Path


@dataclass(frozen=True, slots=True)
class Known:
    """What a reference named when it was last asked about, for one platform."""

    named: Digest  # of the manifest or index
    manifest: Digest  # of the converted manifest


def load(root: Path, digest: Digest) -> KeptDocuments | None:
    """The documents of the image with this manifest; None if they are not here, or no longer good."""
    directory = _directory(root, digest)
    if not directory.is_dir():
        return None
    try:
        return _read(directory, digest)
    except (OSError, RegistryError, ValueError, KeyError, TypeError) as error:
        log.warning("the kept documents of image %s are damaged and are fetched again: %s", digest, error)
        _drop(directory)
        return None


def keep(root: Path, documents: Documents) -> Path:
    """Store *documents*, and return their directory. Another process may store the same at the same time."""
    manifest = documents.manifest
    images = state_directory(root, "images")
    _sweep(images)
    directory = _directory(root, manifest.digest)
    contents = {MANIFEST: manifest.raw, CONFIG: documents.config, BOOTSTRAP: documents.bootstrap}
    contents |= {blob + META_SUFFIX: form for blob, form in documents.metas.items()}
    contents |= {blob + DIGEST_SUFFIX: digests for blob, digests in documents.digests.items()}
    notes = {
        "mediaType": manifest.media_type,
        "layer": manifest.layers[-1].digest,
        "sums": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    draft = images / f"{_DRAFT}{os.getpid()}-{os.urandom(4).hex()}"
    draft.mkdir(mode=0o700)
    try:
        for name, content in [*contents.items(), (NOTES, json.dumps(notes).encode())]:
            write_synced(draft / name, content)
        sync_directory(draft)
        try:
            draft.rename(directory)
        except OSError as error:
            # Another process was faster: what it stored is the same.
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        sync_directory(images)
    finally:
        if draft.exists():
            shutil.rmtree(draft, ignore_errors=True)
    return directory


def recall(root: Path, reference: Reference, platform: Platform) -> Known | None:
    """What *reference* named when it was last asked about; None if it never was."""
    document = read_json_object(_tag_path(root, reference, platform))
    if document is None:
        return None
    named, manifest = document.get("named"), document.get("manifest")
    if not isinstance(named, str) or not isinstance(manifest, str):
        return None
    return Known(Digest(named), Digest(manifest))


def is_known(root: Path, reference: Reference, platform: Platform) -> bool:
    """Whether the image a reference with a digest names was opened here before."""
    if reference.digest is not None and _directory(root, reference.digest).is_dir():
        return True
    return recall(root, reference, platform) is not None


def remember(root: Path, reference: Reference, platform: Platform, known: Known) -> None:
    """Note what *reference* names now."""
    if recall(root, reference, platform) == known:
        return
    state_directory(root, "tags")
    document = {
        "reference": str(reference),
        "platform": str(platform),
        "named": known.named,
        "manifest": known.manifest,
    }
    write_whole(_tag_path(root, reference, platform), json.dumps(document).encode())


def _tag_path(root: Path, reference: Reference, platform: Platform) -> Path:
    key = hashlib.sha256(f"{reference}\n{platform}".encode("utf-8", "surrogateescape")).hexdigest()
    return root / "tags" / f"{key[:32]}.json"


def _directory(root: Path, digest: Digest) -> Path:
    return root / "images" / digest.partition(":")[2]


def _read(directory: Path, digest: Digest) -> KeptDocuments:
    notes = read_json_object(directory / NOTES)
    if notes is None:
        raise ValueError(f"{NOTES} is missing")
    raw = (directory / MANIFEST).read_bytes()
    check_bytes(raw, digest, None, "the manifest")
    manifest = parse_manifest(raw, str(notes["mediaType"]), digest)
    if not isinstance(manifest, Manifest) or notes["layer"] != manifest.layers[-1].digest:
        raise ValueError("the documents are not those of the manifest")
    contents = {}
    for name, noted in notes["sums"].items():
        path = directory / Path(name).name
        contents[name] = mapped(path) if name == BOOTSTRAP else path.read_bytes()
        if digest_of(contents[name]) != f"sha256:{noted}":
            raise ValueError(f"{name} is not what it was")
    check_bytes(contents[CONFIG], manifest.config.digest, manifest.config.size, "the config")
    metas, digests = (
        {name.removesuffix(suffix): raw for name, raw in contents.items() if name.endswith(suffix)}
        for suffix in (META_SUFFIX, DIGEST_SUFFIX)
    )
    return KeptDocuments(manifest, contents[CONFIG], contents[BOOTSTRAP], metas, digests, directory)


def mapped(path: Path) -> bytes:
    """The file's bytes, mapped: a `mmap`, which does what `Bootstrap` and hashing ask of bytes.

    Nobody may cut the file: those kept here are only ever renamed and removed.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with path.open("rb") as file:
        return cast(bytes, mmap(file.fileno(), 0, access=ACCESS_READ))


def _drop(directory: Path) -> None:
    """Out of the way first, so that a half-deleted directory never has an image's name."""
    grave = directory.with_name(f"{_DRAFT}{os.getpid()}-{os.urandom(4).hex()}")
    with suppress(OSError):
        directory.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def _sweep(images: Path) -> None:
    """Remove what processes that are gone left half done."""
    for draft in images.glob(f"{_DRAFT}*"):
        owner = draft.name.removeprefix(_DRAFT).partition("-")[0]
        if not Path("/proc", owner).exists():
            shutil.rmtree(draft, ignore_errors=True)
