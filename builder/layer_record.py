"""What a converted image says of the layers it was made of, for the conversion of the next one.

It lies as `image/nopull.layers` beside the bootstrap, where other readers pass it by: JSON, small against
the bootstrap. It tells which source layer became which blob, and how to get the tree after any of the layers
back (`tree_undo`). A note in the manifest tells whether reading it is worth while. Reading trusts nothing:
whatever is odd makes the record useless, and the layers are converted anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from builder.tree_undo import Undo
from rafs.counted import counted
from rafs.tree import Node, chunk_ref, split_ref

ANNOTATION: Final = "dev.nopull.layers"
_VERSION: Final = 2  # of the record, and of what the same layer is turned into
_ID_DIGITS: Final = 16  # of a chain; only ever compared within one repository, and verified by the record
_TUPLE_LIMIT: Final = 64  # references; a longer list takes a third of the memory as an array
_REFERENCES_LIMIT: Final = 1 << 22  # of all undos; chunks of 256 KiB make a terabyte of replaced files
_SMALL: Final = 64 << 10  # bytes; a record up to here costs a start nothing
_SHARE: Final = 4  # a larger one has at most this part of the bootstrap's size
_FACTS: Final = 1 << 20  # bytes; what a record has besides looks and undos, a few hundred per layer
_READ_LIMIT: Final = 64 << 20  # bytes; JSON takes up to thirty times as much memory


# What reading any JSON as if it were a record can raise.
_FAULTS: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
    OverflowError,
)


class RecordInvalid(Exception):
    """A record cannot be used; callers convert anew."""


class UndoMissing(Exception):
    """An earlier record had no room for an undo, this one has; callers convert anew."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One source layer. `undo` leads back from the tree with it to the one without; None: not recorded, since
    it takes `undo_bytes`, or there is none, as for the lowest layer.
    """

    diff_id: str
    blob: int | None  # position in `Record.blobs`; None where nothing was new
    tar_bytes: int
    files: int
    dropped: Mapping[str, int]
    undo: Undo | None = None
    undo_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """`blobs` are ids, in the order of the keys that chunk references in undos have. `looks` is what the
    hot list found in files: JSON by file, see `file_looks`.
    """

    blobs: tuple[str, ...]
    layers: tuple[LayerFacts, ...]
    looks: Mapping[str, Any]
    hot: int | None = None  # which of the blobs holds copies of others' chunks, see `hot_blob`


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """A short name for each state of an image: after its first layer, its first two, and so on."""
    found: list[str] = []
    for diff_id in diff_ids:
        found.append(hashlib.sha256(f"{found[-1] if found else ''} {diff_id}".encode()).hexdigest())
    return [one[:_ID_DIGITS] for one in found]


def note(way: str, diff_ids: Sequence[str]) -> str:
    """The manifest's annotation; *way* names the options that decide what a layer is turned into."""
    return f"{_VERSION};{way};{','.join(chain_ids(diff_ids))}"


def noted(annotation: str) -> tuple[str, list[str]]:
    """(way, chain ids) of an annotation; empty if it is of another version."""
    version, _, rest = annotation.partition(";")
    way, _, chain = rest.partition(";")
    return (way, chain.split(",")) if version == str(_VERSION) and chain else ("", [])


def encode(record: Record, bootstrap_size: int, *, inherited: bool = False) -> bytes:
    """The record's bytes. What would make it large beside the bootstrap is left out: the looks if they alone
    do, then undos, lowest first.

    Raises:
        UndoMissing: one that is not in *record* has room; not if what it has is *inherited* in any case.
    """
    budget = max(_SMALL, bootstrap_size // _SHARE)
    looks = record.looks if len(_json(record.looks)) <= budget else {}
    layers: list[dict[str, Any]] = []
    for layer in reversed(record.layers):
        undo: dict[str, Any] | int | None = layer.undo_bytes or None
        size = layer.undo_bytes
        if layer.undo is not None:
            undo = _undo_document(layer.undo)
            size = len(_json(undo))
        budget -= size or len(_json(None))
        if budget < 0 and size:
            undo = size
        elif layer.undo_bytes and not inherited:
            raise UndoMissing(
                f"the undo of layer {layer.diff_id}, {counted(layer.undo_bytes, 'byte')}, is not known"
            )
        layers.append(
            {
                "diff_id": layer.diff_id,
                "blob": layer.blob,
                "tar_bytes": layer.tar_bytes,
                "files": layer.files,
                "dropped": dict(sorted(layer.dropped.items())),
                "undo": undo,
            }
        )
    hot = {} if record.hot is None else {"hot": record.hot}
    return _json({"blobs": record.blobs, "layers": layers[::-1], "looks": looks, **hot})


def record_limit(bootstrap_size: int) -> int:
    """The bytes of a record beside a bootstrap of that size beyond which nobody need read it."""
    return min(_FACTS + 2 * max(_SMALL, bootstrap_size // _SHARE), _READ_LIMIT)


def decode(raw: bytes) -> Record:
    """The record that `encode` wrote.

    Raises:
        RecordInvalid: it is not one.
    """
    try:
        document = json.loads(raw)
        _check_references(document["layers"])
        layers = tuple(map(_read_layer, document["layers"]))
        blobs = tuple(map(str, document["blobs"]))
        if len(set(blobs)) < len(blobs):
            raise ValueError("a blob that is listed twice")
        if any(layer.blob is not None and not 0 <= layer.blob < len(blobs) for layer in layers):
            raise ValueError("a layer in a blob that is not listed")
        hot = None if document.get("hot") is None else int(document["hot"])
        if hot is not None and not 0 <= hot < len(blobs):
            raise ValueError("a hot blob that is not listed")
        return Record(blobs, layers, dict(document["looks"]), hot)
    except _FAULTS as error:
        raise RecordInvalid(f"the record of the layers is not understood: {error!r}") from error


def _check_references(layers: Sequence[Any]) -> None:
    """A run of a few bytes may stand for any number of references; refuse what no image has."""
    undos = (one["undo"]["entries"] for one in layers if isinstance(one["undo"], dict))
    runs = (run for entries in undos for entry in entries if len(entry) > 2 for run in entry[-1])
    found = sum(max(0, int(count)) * max(0, int(times)) for _, _, count, times in map(_whole_run, runs))
    if found > _REFERENCES_LIMIT:
        raise ValueError(f"{found} references to chunks")


def _undo_document(undo: Undo) -> dict[str, Any]:
    return {"runs": undo.runs, "entries": [_entry(path, node) for path, node in undo.entries]}


def _entry(path: bytes, node: Node | bytes) -> list[Any]:
    if isinstance(node, bytes):
        return [_text(path), _text(node)]
    xattrs = sorted((node.xattrs or {}).items())
    return [
        _text(path),
        [node.mode, node.uid, node.gid, node.mtime, node.mtime_ns, node.rdev, node.size],
        _text(node.target),
        {_text(name): base64.b64encode(value).decode() for name, value in xattrs},
        list(_runs(node.chunks)),
    ]


def _read_layer(document: Any) -> LayerFacts:
    undo = document["undo"]
    left_out = undo if isinstance(undo, int) else 0
    if left_out < 0:
        raise ValueError("an undo of negative size")
    return LayerFacts(
        str(document["diff_id"]),
        None if document["blob"] is None else int(document["blob"]),
        int(document["tar_bytes"]),
        int(document["files"]),
        {str(name): int(count) for name, count in document["dropped"].items()},
        None if undo is None or isinstance(undo, int) else _read_undo(undo),
        left_out,
    )


def _read_undo(document: Any) -> Undo:
    runs = tuple(map(int, document["runs"]))
    if any(run < 0 for run in runs):
        raise ValueError("a negative run")
    return Undo(runs, tuple(map(_read_entry, document["entries"])))


def _read_entry(entry: Any) -> tuple[bytes, Node | bytes]:
    if len(entry) == 2:
        return _raw(entry[0]), _raw(entry[1])
    path, numbers, target, xattrs, runs = entry
    mode, uid, gid, mtime, mtime_ns, rdev, size = map(int, numbers)
    refs: list[int] = []
    for key, first, count, times in map(_whole_run, runs):
        refs += [chunk_ref(key, index) for index in range(first, first + count)] * times
    return _raw(path), Node(
        mode,
        uid,
        gid,
        mtime,
        mtime_ns,
        rdev,
        size,
        _raw(target),
        {_raw(name): base64.b64decode(value) for name, value in xattrs.items()} or None,
        packed_refs(refs),
    )


def packed_refs(refs: Sequence[int]) -> Sequence[int]:
    """*refs* as a node keeps them."""
    return tuple(refs) if len(refs) <= _TUPLE_LIMIT else array("Q", refs)


def _runs(refs: Sequence[int]) -> Iterator[list[int]]:
    """[blob key, first chunk, count] for each run of neighbours, with a 1 and how often for one chunk again
    and again, as in holes.
    """
    start = 0
    while start < len(refs):
        key, first = split_ref(refs[start])
        at = start + 1
        step = refs[at] - refs[start] if at < len(refs) else 0
        while step in (0, 1) and at < len(refs) and refs[at] == refs[at - 1] + step:
            at += 1
        yield [key, first, at - start] if step or at == start + 1 else [key, first, 1, at - start]
        start = at


def _whole_run(run: Sequence[int]) -> Sequence[int]:
    return run if len(run) == 4 else (*run, 1)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _json(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode("ascii")
