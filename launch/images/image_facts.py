"""What an image is made of, as plain values for people and scripts; of ordinary images as far as that goes.

Opens nothing itself and judges nothing: `lazy_image` opens, `image_check` judges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chunk_store.byte_size import human_size
from launch.errors import ConfigInvalid
from launch.images.image_config import load_config, parse_config
from launch.images.lazy_image import LazyImage
from launch.images.ordinary_image import OrdinaryImage
from rafs.blob_meta import BlobMeta
from rafs.blob_record import BlobRecord
from rafs.bootstrap import Bootstrap
from rafs.codes import Cipher
from rafs.counted import counted
from rafs.dump import escape
from rafs.records import DeviceSlot
from rafs.windows import cut_windows
from registry_client.manifest import Manifest

HOT_LIMIT = 1000  # paths of a hot list; `hot_count` tells how many there are
HOT_SHOWN = 12  # of them, for people
CONFIG_SHOWN = ("entrypoint", "cmd", "working_dir", "user", "env")


def converted_facts(image: LazyImage) -> dict[str, Any]:
    """Of an image that can be mounted. Sizes in bytes; keys are part of the command's interface."""
    header = image.stored.header
    blobs = [
        {**_blob_facts(meta), "table": _table_row(record, slot)}
        for meta, record, slot in zip(image.blobs, header.blobs, header.slots, strict=True)
    ]
    sizes = _layer_sizes(image.manifest) if image.manifest is not None else {}
    for blob in blobs:
        blob["object_size"] = sizes.get(f"sha256:{blob['id']}")
    stored = sum(sizes.values()) or sum(blob["compressed_size"] for blob in blobs)
    unpacked = sum(blob["uncompressed_size"] for blob in blobs)
    prefetch = prefetch_paths(image.bootstrap)
    hot = [] if prefetch == ["/"] else prefetch
    return {
        "reference": image.reference.familiar(),
        "digest": image.digest,
        "converted": True,
        "format": "RAFS v6",
        "platform": str(image.platform),
        "manifest": None if image.manifest is None else image.manifest.digest,
        "layers": [] if image.manifest is None else _layers(image.manifest),
        "compressed_size": stored,
        "uncompressed_size": unpacked,
        "ratio": round(unpacked / stored, 2) if stored else None,
        "inodes": image.bootstrap.inode_count,
        "bootstrap_size": image.bootstrap.size,
        "chunk_size": image.bootstrap.chunk_size,
        "chunks": sum(blob["chunks"] for blob in blobs),
        "units": sum(blob["units"] for blob in blobs),
        "windows": sum(blob["windows"] for blob in blobs),
        "blobs": blobs,
        "hot": hot[:HOT_LIMIT],
        "hot_count": len(hot),
        "prefetch": prefetch[:HOT_LIMIT],
        "prefetch_count": len(prefetch),
        "root_nid": image.bootstrap.root_nid,
        "flags": [flag.name for flag in image.bootstrap.flags],
        "config": config_facts(image.config),
        "warnings": list(image.warnings),
    }


def ordinary_facts(image: OrdinaryImage) -> dict[str, Any]:
    """Of an image that was not converted."""
    manifest = image.manifest
    return {
        "reference": image.reference,
        "digest": manifest.digest,
        "converted": False,
        "format": "OCI" if "oci" in manifest.media_type else "docker",
        "platform": str(image.platform),
        "manifest": manifest.digest,
        "layers": _layers(manifest),
        "compressed_size": sum(layer.size for layer in manifest.layers),
        "config": config_facts(image.config),
    }


def config_facts(raw: bytes) -> dict[str, Any] | None:
    """What a container of the image would run; None where the config does not say so readably."""
    try:
        config = parse_config(load_config(raw))
    except ConfigInvalid:
        return None
    return {
        "entrypoint": list(config.entrypoint),
        "cmd": list(config.command),
        "env": list(config.env),
        "working_dir": config.working_dir,
        "user": config.user,
    }


def prefetch_paths(bootstrap: Bootstrap) -> list[str]:
    """Paths of the prefetch table in order, quoted as in the dump; of a linked file the first.

    "/" alone means everything.
    """
    nids = bootstrap.prefetch_nids()
    if not nids:
        return []
    wanted, names = set(nids), dict[int, str]()
    for path, inode in bootstrap.walk():
        if inode.nid in wanted:
            names.setdefault(inode.nid, escape(path))
    return [names[nid] for nid in nids if nid in names]


def _blob_facts(meta: BlobMeta) -> dict[str, Any]:
    last = meta.unit(meta.unit_count - 1)
    return {
        "id": meta.id,
        "compressor": meta.compressor.name.lower(),
        "digester": meta.digester.name.lower(),
        "chunks": meta.chunk_count,
        "units": meta.unit_count,
        "windows": len(cut_windows(meta)),
        "compressed_size": last.compressed_offset + last.compressed_size,
        "uncompressed_size": meta.uncompressed_size,
    }


def _table_row(record: BlobRecord, slot: DeviceSlot) -> dict[str, Any]:
    """What the bootstrap says of a blob; all but key and initial vector."""
    row: dict[str, Any] = {
        "id": record.id,
        "features": sorted(feature.name or hex(feature) for feature in record.features),
        "compressor": record.compressor.name.lower(),
        "digester": record.digester.name.lower(),
        "cipher": record.cipher.name.lower(),
        "mapped_blkaddr": slot.mapped_block,
        "ci_compressor": record.ci_compressor.name.lower(),
        "toc_digest": record.toc_digest.hex(),
    }
    for key in (
        "chunk_size",
        "chunk_count",
        "compressed_size",
        "uncompressed_size",
        "ci_offset",
        "ci_compressed_size",
        "ci_uncompressed_size",
        "toc_size",
    ):
        row[key] = getattr(record, key)
    if record.cipher is Cipher.NONE:
        row |= {"meta_digest": record.meta_digest.hex(), "meta_size": record.meta_size}
    return row


def _layer_sizes(manifest: Manifest) -> dict[str, int]:
    return {layer.digest: layer.size for layer in manifest.layers}


def _layers(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {"digest": layer.digest, "size": layer.size, "media_type": layer.media_type}
        for layer in manifest.layers
    ]


def lines(facts: Mapping[str, Any]) -> list[str]:
    """Facts of either kind for people."""
    told = [
        ("image", facts["reference"]),
        ("digest", facts["digest"]),
        ("platform", _shown(facts["platform"])),
        ("format", facts["format"] if facts["converted"] else f"{facts['format']}, ordinary: not converted"),
        ("compressed", human_size(facts["compressed_size"])),
    ]
    if facts["converted"]:
        ratio = "" if facts["ratio"] is None else f" (ratio {facts['ratio']})"
        told += [
            ("uncompressed", f"{human_size(facts['uncompressed_size'])}{ratio}"),
            ("inodes", f"{facts['inodes']}, bootstrap of {human_size(facts['bootstrap_size'])}"),
            ("chunks", _chunks(facts)),
        ]
    told += [("layer", f"{it['digest']}  {human_size(it['size']):>9}") for it in facts["layers"]]
    for blob in facts.get("blobs", ()):
        sizes = f"{human_size(blob['compressed_size'])} of {human_size(blob['uncompressed_size'])}"
        kinds = f"{blob['compressor']}, {blob['digester']}"
        told.append(("blob", f"{blob['id'][:12]}…  {counted(blob['chunks'], 'chunk')}, {sizes}, {kinds}"))
    config = facts["config"] or {}
    told += [(name, _shown(config[name])) for name in CONFIG_SHOWN if config.get(name)]
    told += [("hot", path) for path in facts.get("hot", ())[:HOT_SHOWN]]
    more = facts.get("hot_count", 0) - HOT_SHOWN
    if more > 0:
        listed = "them all" if facts["hot_count"] <= HOT_LIMIT else f"the first {HOT_LIMIT}"
        told.append(("hot", f"and {more} more; --json lists {listed}"))
    told += [("warning", warning) for warning in facts.get("warnings", ())]
    return [f"{name:<13}{text}" for name, text in told]


def _chunks(facts: Mapping[str, Any]) -> str:
    units, windows = counted(facts["units"], "unit"), counted(facts["windows"], "window")
    return f"{facts['chunks']} in {units}, {windows}"


def _shown(value: str | list[str]) -> str:
    """*value* of a config, which may be anything: nothing of it moves a terminal's cursor or ends a line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A plain text with a quotation mark in front would read like a quoted one.
    quoted = isinstance(value, str) and value.startswith('"')
    return text if text.isprintable() and not quoted else json.dumps(value)
