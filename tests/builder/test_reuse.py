"""Layers and chunks that exist are not made again, and whole layers so taken change no byte of the result."""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from builder.bootstrap_layer_reader import RECORD
from builder.convert import convert
from builder.convert_options import ConvertOptions
from builder.errors import LayerInvalid, SourceUnsupported
from builder.known_image import KnownImage
from builder.layer_record import RecordInvalid, decode
from builder.layers.overlay import empty_tree, merge_layer
from builder.layers.tar_index import TarEntry
from builder.report import ConvertReport
from builder.reuse import Dictionary
from builder.shelf import Shelf, version_order
from builder.tree_undo import apply_undo, snapshot, undo_to
from rafs.tree import Node, walk
from registry_client import open_destination, open_source
from registry_client.manifest import Manifest
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from registry_client.source import TaggedSource
from tests.builder.layouts import Layout, Published, convert_layout, digest_of, gzipped
from tests.builder.tar_bytes import END, member, pax
from tests.builder.test_convert import LAYERS, SMALL
from tests.support.trees import directory, file, hardlink, layer_tar, symlink, tree, whiteout

CHANCE = random.Random(11)
BASE = layer_tar(
    [
        tree(
            directory(b"bin", file(b"sh", b"shell" * 9000, mode=0o755), symlink(b"alias", b"sh")),
            directory(b"lib", file(b"big", CHANCE.randbytes(500_000)), file(b"old", b"old" * 500)),
            directory(b"etc", file(b"conf", b"a", xattrs={b"user.x": b"\0\xff"}), mode=0o711, mtime=5),
        )
    ]
)
MIDDLE = layer_tar(
    [
        tree(
            directory(b"lib", whiteout(b"old"), hardlink(b"again", b"/lib/big"), mtime=99),
            directory(b"etc", file(b"conf", b"b"), mode=0o700, uid=3),
            directory(b"\xff", file(b"\xfe", b"odd name")),
        )
    ]
)
TOP = layer_tar([tree(directory(b"app", file(b"main", b"#!/bin/sh\n", mode=0o755)), whiteout(b"bin"))])
OTHER_TOP = layer_tar([tree(directory(b"app", file(b"main", CHANCE.randbytes(70_000), mode=0o755)))])
LAST = layer_tar([tree(file(b"last", b"last"))])
RUN = {"Cmd": ["/bin/sh", "/app/main"]}


def add_image(where: Path, layers: list[bytes], *, without: tuple[bytes, ...] = ()) -> None:
    """An image `app` of *layers*; those *without* cannot be read."""
    layout = Layout(where)
    layout.add_image(layers, config=RUN)
    for layer in without:
        layout.blob(digest_of(gzipped(layer))).unlink()


def convert_beside(
    source: Path, destination: Path, tag: str, options: ConvertOptions = SMALL
) -> ConvertReport:
    """Convert `source:app` to `destination:tag`, looking at what is in the destination."""
    name = f"oci:{destination}:{tag}"
    with ExitStack() as owned:
        opened = open_source(parse_reference(f"oci:{source}:app"), RegistryOptions())
        published = open_destination(parse_reference(name), RegistryOptions())
        owned.callback(published.close)
        neighbours = open_source(parse_reference(name), RegistryOptions())
        assert isinstance(neighbours, TaggedSource)
        shelf = Shelf(neighbours, tag)
        return convert(opened, published, tag=tag, options=options, shelf=shelf)


@pytest.mark.parametrize(
    ("earlier", "later", "known"),
    [
        ([BASE, TOP], [BASE, OTHER_TOP], 1),
        ([BASE, MIDDLE, TOP], [BASE, MIDDLE, OTHER_TOP], 2),
        ([BASE, MIDDLE, TOP], [BASE, MIDDLE], 2),
        ([BASE, MIDDLE, TOP], [BASE, TOP], 1),
        ([BASE], [BASE, MIDDLE, TOP], 1),
        ([BASE, MIDDLE], [BASE, MIDDLE], 2),
        ([BASE, END, TOP], [BASE, END, OTHER_TOP], 2),
        (LAYERS, [*LAYERS, TOP], 3),
        (LAYERS, [*LAYERS[:2], TOP], 2),
        (LAYERS, [LAYERS[0], TOP], 1),
    ],
)
def test_known_layers_are_not_read_and_the_digest_is_that_of_a_fresh_conversion(
    tmp_path: Path, earlier: list[bytes], later: list[bytes], known: int
) -> None:
    add_image(tmp_path / "first", earlier)
    convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    add_image(tmp_path / "second", later, without=tuple(dict.fromkeys(later[:known])))
    report = convert_beside(tmp_path / "second", tmp_path / "out", "v2")
    assert [layer.reused for layer in report.images[0].layers] == [True] * known + [False] * (
        len(later) - known
    )
    add_image(tmp_path / "whole", later)
    fresh = convert_layout(tmp_path / "whole", tmp_path / "fresh", SMALL)
    assert report.digest == fresh.digest
    assert Published(tmp_path / "out").findings() == []
    assert Published(tmp_path / "out").shown() == Published(tmp_path / "fresh").shown()
    # And that one leads on as well as a fresh one does.
    add_image(tmp_path / "third", [*later, LAST], without=tuple(dict.fromkeys(later)))
    assert sum(layer.reused for layer in convert_beside(
        tmp_path / "third", tmp_path / "out", "v3"
    ).images[0].layers) == len(later)  # fmt: skip


def random_layer(chance: random.Random, files: set[bytes]) -> bytes:
    """A tar that adds, replaces, links, hides and re-describes things; *files* are those below and in it."""
    members = []
    for path in chance.sample(NAMES, 5):
        kind = chance.choice("ffdlwhho")
        folder, _, name = path.rpartition(b"/")
        mtime, mode = chance.randrange(1000), chance.randrange(0o1000)
        if kind == "w":
            members.append(member((folder + b"/" if folder else b"") + b".wh." + name))
        elif kind == "o":
            members.append(member(folder + b"/.wh..wh..opq") if folder else member(b"x"))
        elif kind == "d":
            members.append(member(path, kind=b"5", mtime=mtime, mode=mode))
        elif kind == "l":
            members.append(member(path, kind=b"2", link=b"/e/f"))
        elif kind == "h" and files:
            members.append(member(path, kind=b"1", link=chance.choice(sorted(files))))
        else:
            content = b"%d" % chance.randrange(5) * chance.choice([0, 1, 4000, 40_000])
            members.append(
                pax((b"SCHILY.xattr.user.k", b"v")) + member(path, content, mtime=mtime, mode=mode)
            )
            files.add(path)
    return b"".join(members) + END


NAMES = [b"a", b"b", b"a/c", b"a/d", b"b/c", b"b/c/e", b"e/f", b"e/g", b"h", b"\xff"]


@pytest.mark.parametrize("seed", range(24))
def test_random_layers_are_taken_up_at_any_point(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    layers: list[bytes] = []
    files: set[bytes] = set()
    for attempt in range(100):
        there = set(files)
        add_image(tmp_path / f"{attempt}", [*layers, tried := random_layer(chance, there)])
        # Some are impossible, such as links to what is gone.
        with suppress(LayerInvalid):
            convert_layout(tmp_path / f"{attempt}", tmp_path / "tried", SMALL)
            layers, files = [*layers, tried], there
        if len(layers) == 4:
            break
    known = chance.randrange(1, 4)
    other = [*layers[:known], LAST]
    add_image(tmp_path / "first", layers)
    first = convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    in_table = {blob.id for blob in Published(tmp_path / "out", first.digest).bootstrap.blobs}
    add_image(tmp_path / "second", other)
    report = convert_beside(tmp_path / "second", tmp_path / "out", "v2")
    assert report.digest == convert_layout(tmp_path / "second", tmp_path / "fresh", SMALL).digest
    # All but where a layer's bytes are all hidden by what lies above: nobody knows their digests then.
    hidden = any(
        layer.blob is not None and layer.blob[7:] not in in_table for layer in first.images[0].layers[:known]
    )
    assert hidden or sum(layer.reused for layer in report.images[0].layers) == known


def test_bytes_that_nobody_looked_at_before_come_from_the_blob(tmp_path: Path) -> None:
    script = layer_tar([tree(file(b"go", b"#!/other\n", mode=0o755), file(b"other", b"x", mode=0o755))])
    Layout(tmp_path / "first").add_image([script])
    convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    layout = Layout(tmp_path / "second")
    layout.add_image([script, LAST], config={"Cmd": ["/go"]})
    whole = convert_layout(tmp_path / "second", tmp_path / "fresh", SMALL)
    layout.blob(digest_of(gzipped(script))).unlink()
    report = convert_beside(tmp_path / "second", tmp_path / "out", "v2")
    assert report.digest == whole.digest
    assert report.images[0].hot_files == 2


def test_what_was_found_in_a_file_is_not_told_of_another_in_its_place(tmp_path: Path) -> None:
    base = layer_tar(
        [tree(directory(b"bin", *(file(name, name * 2500 + b"!", mode=0o755) for name in (b"aa", b"bb"))))]
    )
    digests = []
    for version, interpreter in enumerate((b"aa", b"bb")):
        script = member(b"app/run", b"#!/bin/%s\n# version %d\n" % (interpreter, version), mode=0o755) + END
        Layout(tmp_path / f"{version}").add_image([base, script], config={"Cmd": ["/app/run"]})
        digests.append(convert_beside(tmp_path / f"{version}", tmp_path / "out", f"v{version}").digest)
    image = Published(tmp_path / "out", digests[1])
    assert [image.path_of(nid) for nid in image.bootstrap.prefetch_nids()] == [b"/app/run", b"/bin/bb"]
    assert digests[1] == convert_layout(tmp_path / "1", tmp_path / "fresh", SMALL).digest


def test_other_options_make_other_blobs(tmp_path: Path) -> None:
    add_image(tmp_path / "in", [BASE, TOP])
    convert_beside(tmp_path / "in", tmp_path / "out", "v1")
    options = replace(SMALL, compression_level=1)
    report = convert_beside(tmp_path / "in", tmp_path / "out", "v2", options)
    assert not any(layer.reused for layer in report.images[0].layers)
    assert report.digest == convert_layout(tmp_path / "in", tmp_path / "fresh", options).digest


def test_the_image_with_most_in_common_is_taken(tmp_path: Path) -> None:
    for number, layers in enumerate([[BASE], [BASE, MIDDLE], [TOP]]):
        add_image(tmp_path / f"{number}", layers)
        convert_beside(tmp_path / f"{number}", tmp_path / "out", f"v{number}")
    add_image(tmp_path / "in", [BASE, MIDDLE, OTHER_TOP], without=(BASE, MIDDLE))
    convert_beside(tmp_path / "in", tmp_path / "out", "new")


def test_a_blob_that_is_gone_is_made_again(tmp_path: Path) -> None:
    add_image(tmp_path / "in", [BASE, TOP])
    first = convert_beside(tmp_path / "in", tmp_path / "out", "v1")
    blob = first.images[0].layers[0].blob
    assert blob is not None
    (tmp_path / "out/blobs/sha256" / blob[7:]).unlink()
    again = convert_beside(tmp_path / "in", tmp_path / "out", "v2")
    assert again.digest == first.digest
    assert Published(tmp_path / "out").findings() == []


def test_a_layer_that_no_file_shows_any_more_is_made_again(tmp_path: Path) -> None:
    hidden = layer_tar([tree(file(b"only", b"x" * 5000))])
    add_image(tmp_path / "in", [hidden, layer_tar([tree(whiteout(b"only"), file(b"f", b"f"))])])
    convert_beside(tmp_path / "in", tmp_path / "out", "v1")
    add_image(tmp_path / "next", [hidden, TOP])
    report = convert_beside(tmp_path / "next", tmp_path / "out", "v2")
    assert report.digest == convert_layout(tmp_path / "next", tmp_path / "fresh", SMALL).digest


def record_with(chunks: object) -> bytes:
    entry = ["p", [33188, 0, 0, 0, 0, 0, 9], "", {}, [[0, 0, chunks]]]
    layer = {"diff_id": "d", "blob": 0, "tar_bytes": 1, "files": 1, "dropped": {}}
    undo = {"runs": [], "entries": [entry]}
    return json.dumps({"blobs": ["a"], "layers": [{**layer, "undo": undo}], "looks": {}}).encode()


def test_a_record_is_read() -> None:
    assert decode(record_with(3)).layers[0].undo is not None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"blobs":[],"layers":[{}],"looks":{}}',
        record_with(1 << 40),  # would fill the memory
        record_with(float("inf")),
    ],
)
def test_a_record_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(RecordInvalid):
        decode(raw)


def test_a_record_is_small_beside_the_bootstrap(tmp_path: Path) -> None:
    files = layer_tar([tree(*(file(b"f%05d" % number, b"%d" % number) for number in range(3000)))])
    add_image(tmp_path / "in", [BASE, files, files, files, MIDDLE])
    convert_beside(tmp_path / "in", tmp_path / "out", "v1")
    found = Published(tmp_path / "out").files
    assert len(found[RECORD]) < len(found["image/image.boot"]) / 3
    layers = decode(found[RECORD]).layers
    assert [layer.undo is None for layer in layers] == [True, True, True, False, False]
    assert [bool(layer.undo_bytes) for layer in layers] == [False, True, True, False, False]


def many(numbers: range, mtime: int) -> bytes:
    """A layer of empty files with long names, whose undo is large beside the bootstrap if they were there."""
    names = (b"e" * 90 + b"/%d" % number for number in numbers)
    return b"".join([*(member(name, prefix=b"d" * 90, mtime=mtime) for name in names), END])


@pytest.mark.parametrize(
    ("top", "reused", "recorded"),
    [
        (LAST, 0, [False, True, True]),  # room for the undo that was left out
        (many(range(150, 330), 4), 2, [False, False, True]),  # as little room as before
    ],
)
def test_undos_that_were_left_out_do_not_change_what_a_later_image_is(
    tmp_path: Path, top: bytes, reused: int, recorded: list[bool]
) -> None:
    lower = [many(range(400), 1), many(range(180), 2)]
    add_image(tmp_path / "first", [*lower, many(range(180, 360), 3)])
    first = convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    record = decode(Published(tmp_path / "out", first.digest).files[RECORD])
    assert [layer.undo is not None for layer in record.layers] == [False, False, True]
    add_image(tmp_path / "second", [*lower, top])
    report = convert_beside(tmp_path / "second", tmp_path / "out", "v2")
    assert sum(layer.reused for layer in report.images[0].layers) == reused
    record = decode(Published(tmp_path / "out", report.digest).files[RECORD])
    assert [layer.undo is not None for layer in record.layers] == recorded
    assert report.digest == convert_layout(tmp_path / "second", tmp_path / "fresh", SMALL).digest


def test_layers_below_an_undo_of_unknown_size_are_not_taken(tmp_path: Path) -> None:
    """Earlier versions left undos out without a word."""
    lower = [many(range(400), 1), many(range(180), 2)]
    add_image(tmp_path / "first", [*lower, many(range(180, 360), 3)])
    convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    opened = open_source(parse_reference(f"oci:{tmp_path / 'out'}:v1"), RegistryOptions())
    assert isinstance(opened, TaggedSource)
    manifest = opened.manifest(opened.resolve_tag("v1"))
    assert isinstance(manifest, Manifest)
    image = KnownImage(opened, manifest)
    assert image.record is not None
    diff_ids = [layer.diff_id for layer in image.record.layers]
    assert image.shared_layers(diff_ids) == 3
    layers = tuple(replace(layer, undo_bytes=0) for layer in image.record.layers)
    image.record = replace(image.record, layers=layers)
    assert image.shared_layers(diff_ids) == 0


def test_a_dictionarys_record_decides_which_undos_are_left_out(tmp_path: Path) -> None:
    lower = [many(range(400), 1), many(range(180), 2)]
    add_image(tmp_path / "first", [*lower, many(range(180, 360), 3)])
    convert_layout(tmp_path / "first", tmp_path / "dict", SMALL)
    add_image(tmp_path / "second", [*lower, LAST], without=tuple(lower))
    report = with_dictionary(tmp_path / "second", tmp_path / "out", tmp_path / "dict")
    assert sum(layer.reused for layer in report.images[0].layers) == 2


def with_dictionary(
    source: Path, destination: Path, *dictionaries: Path, options: ConvertOptions = SMALL
) -> ConvertReport:
    with ExitStack() as owned:
        opened = open_source(parse_reference(f"oci:{source}:app"), RegistryOptions())
        published = open_destination(parse_reference(f"oci:{destination}:lazy"), RegistryOptions())
        owned.callback(published.close)
        known = [
            Dictionary(open_source(parse_reference(f"oci:{path}:lazy"), RegistryOptions()))
            for path in dictionaries
        ]
        return convert(opened, published, tag="lazy", options=options, dictionaries=known)


def test_chunks_of_a_dictionary_are_referred_to_and_its_blobs_come_along(tmp_path: Path) -> None:
    content = CHANCE.randbytes(640_000)
    add_image(tmp_path / "first", [BASE, layer_tar([tree(file(b"app", content))])])
    convert_layout(tmp_path / "first", tmp_path / "dict", SMALL)
    changed = layer_tar([tree(file(b"renamed", content[:458_752] + b"changed"), file(b"new", b"n"))])
    add_image(tmp_path / "second", [BASE, changed], without=(BASE,))
    report = with_dictionary(tmp_path / "second", tmp_path / "out", tmp_path / "dict")
    image = Published(tmp_path / "out")
    assert image.findings() == []
    assert image.shown()[b"/renamed"].content == content[:458_752] + b"changed"
    assert report.images[0].layers[0].reused
    assert report.images[0].layers[1].blob_bytes < 20_000
    assert len(image.manifest["layers"]) == 4
    assert len(image.config["rootfs"]["diff_ids"]) == 4
    assert sum(not entry.get("empty_layer") for entry in image.config["history"]) == 4


def test_a_dictionary_without_common_layers_still_saves_chunks(tmp_path: Path) -> None:
    add_image(tmp_path / "first", [TOP, BASE])
    convert_layout(tmp_path / "first", tmp_path / "dict", SMALL)
    add_image(tmp_path / "second", [BASE, OTHER_TOP])
    report = with_dictionary(tmp_path / "second", tmp_path / "out", tmp_path / "dict")
    assert report.images[0].layers[0].blob is None
    assert Published(tmp_path / "out").findings() == []
    direct = convert_layout(tmp_path / "second", tmp_path / "direct", SMALL)
    assert direct.digest != report.digest
    shown, plain = Published(tmp_path / "out").shown(), Published(tmp_path / "direct").shown()
    assert shown == plain


def test_what_cannot_be_a_dictionary_is_refused(tmp_path: Path) -> None:
    add_image(tmp_path / "in", [BASE])
    convert_layout(tmp_path / "in", tmp_path / "dict", replace(SMALL, chunk_size=128 << 10))
    with pytest.raises(SourceUnsupported, match="--chunk-size 131072"):
        with_dictionary(tmp_path / "in", tmp_path / "out", tmp_path / "dict")
    add_image(tmp_path / "other", [TOP])
    manifest = json.loads((tmp_path / "in/index.json").read_text())["manifests"][0]
    manifest["annotations"]["org.opencontainers.image.ref.name"] = "lazy"
    (tmp_path / "in/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    with pytest.raises(SourceUnsupported, match="ordinary"):
        with_dictionary(tmp_path / "other", tmp_path / "out", tmp_path / "in")


def shape(root: Node) -> list[object]:
    firsts: dict[Node, bytes] = {}
    return [
        (path, node.mode, node.uid, node.mtime, node.xattrs, node.target, firsts.setdefault(node, path))
        for path, node in walk(root)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_undoing_a_layer_gives_the_tree_before_it(seed: int) -> None:
    chance = random.Random(seed)
    root = empty_tree()
    merge(root, chance)
    merge(root, chance)
    before, taken = shape(root), snapshot(root)
    merge(root, chance)
    apply_undo(root, undo_to(taken, root))
    assert shape(root) == before


def merge(root: Node, chance: random.Random) -> None:
    """One random layer; names collide often, and links lead to whatever is there."""
    entries: list[TarEntry] = []
    names = [b"a", b"b", b"a/c", b"a/d", b"b/c", b"b/c/e", b"f"]
    files = [path[1:] for path, node in walk(root) if not node.is_directory]
    for path in chance.sample(names, 4):
        folder, _, name = path.rpartition(b"/")
        kind = chance.choice("fdlwh")
        mtime = chance.randrange(1000)
        if kind == "w":
            entries.append(TarEntry((folder + b"/" if folder else b"") + b".wh." + name, Node(0o100644)))
        elif kind == "h" and files:
            entries.append(TarEntry(path, None, link=chance.choice(files)))
        elif kind == "l" and path != b"f":
            entries.append(TarEntry(path, Node(0o120777, target=b"f", mtime=mtime)))
        else:
            entries.append(TarEntry(path, Node((0o040000 if kind == "d" else 0o100000) | 0o644, mtime=mtime)))
    # What an impossible layer has done until it is refused can be undone, too.
    with suppress(LayerInvalid):
        merge_layer(root, entries, layer="sha256:abc", dropped=Counter())


def test_a_tree_deeper_than_the_interpreters_stack_can_be_undone() -> None:
    root = empty_tree()
    deep = b"/".join([b"d"] * 1500)
    merge_layer(root, [TarEntry(deep, Node(0o040755))], layer="sha256:abc", dropped=Counter())
    taken = snapshot(root)
    merge_layer(root, [TarEntry(deep + b"/f", Node(0o100644))], layer="sha256:abc", dropped=Counter())
    apply_undo(root, undo_to(taken, root))
    assert sum(1 for _ in walk(root)) == 1501


def test_tags_are_looked_at_from_the_highest_version_down() -> None:
    tags = ["1.9", "1.10", "1", "1.09", "9" * 5000, "a", "²"]
    assert sorted(tags, key=version_order) == ["1", "1.9", "1.09", "1.10", "9" * 5000, "a", "²"]
