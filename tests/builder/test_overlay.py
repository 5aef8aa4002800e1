"""Layers merge as `umoci unpack` and an overlay would show them, whatever the order inside each tar."""

from __future__ import annotations

import stat
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import LayerInvalid, LayerUnsupported
from builder.layers.overlay import empty_tree, merge_layer
from builder.layers.tar_index import TarEntry, read_entries
from builder.layers.tar_stream import TarStream
from rafs.digests import chunk_digest
from rafs.tree import Node, walk
from tests.builder.tar_bytes import END, long_link, long_name, member, pax

Layer = bytes  # members, one after the other


def merge(*layers: Layer, dropped: Counter[str] | None = None) -> Node:
    root = empty_tree()
    for layer in layers:
        merge_onto(root, layer, dropped)
    return root


def merge_onto(root: Node, layer: Layer, dropped: Counter[str] | None = None) -> list[TarEntry]:
    stream = TarStream(iter([layer + END]))
    entries = list(read_entries(stream, "sha256:abc", chunk_size=4096, take=chunk_digest))
    return merge_layer(root, entries, layer="sha256:abc", dropped=Counter() if dropped is None else dropped)


def names(root: Node) -> list[bytes]:
    return [path for path, _ in walk(root)][1:]


def at(root: Node, path: bytes) -> Node:
    for name in path.split(b"/"):
        root = root.children[name]
    return root


def file(name: bytes, mode: int = 0o644, **attributes: int) -> Layer:
    return member(name, name, mode=mode, **attributes)  # type: ignore[arg-type]


def folder(name: bytes, mode: int = 0o755, **attributes: int) -> Layer:
    return member(name, kind=b"5", mode=mode, **attributes)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> Layer:
    return member(name, kind=b"2", link=target, mode=0o777)


def hardlink(name: bytes, target: bytes, **attributes: int) -> Layer:
    return member(name, kind=b"1", link=target, **attributes)  # type: ignore[arg-type]


def whiteout(path: bytes) -> Layer:
    head, slash, name = path.rpartition(b"/")
    return member(head + slash + b".wh." + name)


def char_whiteout(path: bytes) -> Layer:
    return member(path, kind=b"3", device=(0, 0))


def opaque(path: bytes) -> Layer:
    return member(path + b"/.wh..wh..opq")


def opaque_folder(path: bytes) -> Layer:
    return pax((b"SCHILY.xattr.trusted.overlay.opaque", b"y")) + folder(path)


LOWER = folder(b"d", 0o700, uid=3, mtime=55) + file(b"d/x") + file(b"d/s/deep") + file(b"gone")


@pytest.mark.parametrize("hide", [whiteout, char_whiteout])
def test_a_whiteout_removes_a_name_of_the_layers_below(hide: object) -> None:
    assert callable(hide)
    assert names(merge(LOWER, hide(b"gone") + hide(b"d/s") + hide(b"d/never"))) == [b"/d", b"/d/x"]


@pytest.mark.parametrize("early", [True, False])
def test_a_whiteout_never_touches_its_own_layer(early: bool) -> None:
    parts = [whiteout(b"d") + opaque(b"e"), file(b"d/new") + file(b"e/new")]
    root = merge(LOWER + file(b"e/old"), b"".join(parts if early else reversed(parts)))
    assert names(root) == [b"/d", b"/d/new", b"/e", b"/e/new", b"/gone"]
    assert at(root, b"d").mode == stat.S_IFDIR | 0o755


@pytest.mark.parametrize("upper", [opaque(b"d") + file(b"d/y"), opaque_folder(b"d") + file(b"d/y")])
def test_an_opaque_folder_shows_only_its_own_names(upper: Layer) -> None:
    root = merge(LOWER, upper)
    assert names(root) == [b"/d", b"/d/y", b"/gone"]
    assert at(root, b"d").xattrs is None


def test_an_opaque_marker_alone_keeps_the_folders_attributes() -> None:
    root = merge(LOWER, opaque(b"d"))
    assert (at(root, b"d").mode, at(root, b"d").uid, at(root, b"d").mtime) == (stat.S_IFDIR | 0o700, 3, 55)
    assert names(merge(LOWER, member(b".wh..wh..opq"))) == []


LINKED = file(b"usr/lib/libc.so") + symlink(b"lib", b"usr/lib")


def test_the_longest_name_there_is_can_be_hidden() -> None:
    longest = b"d/" + b"n" * 255
    lower = long_name(longest) + member(b"x") + long_name(longest[:-1]) + member(b"x")
    mark = long_name(b"d/.wh." + b"n" * 255) + member(b"x")
    assert names(merge(lower, mark)) == [b"/d", b"/" + longest[:-1]]


@pytest.mark.parametrize(
    "hide", [opaque(b"lib"), whiteout(b"lib/libc.so"), char_whiteout(b"lib/libc.so"), whiteout(b"lib/a/b")]
)
def test_a_folder_in_the_place_of_a_symlink_hides_nothing_where_that_led(hide: Layer) -> None:
    lower = LINKED + file(b"usr/lib/a/b")
    upper = folder(b"lib") + hide + file(b"lib/new")
    assert names(merge(lower, upper)) == [
        b"/lib", b"/lib/new", b"/usr", b"/usr/lib", b"/usr/lib/a", b"/usr/lib/a/b", b"/usr/lib/libc.so",
    ]  # fmt: skip


@pytest.mark.parametrize("upper", [opaque_folder(b"lib"), file(b"lib/new") + opaque_folder(b"lib")])
def test_an_opaque_folder_is_never_the_target_of_the_symlink_it_replaces(upper: Layer) -> None:
    assert b"/usr/lib/libc.so" in names(merge(LINKED, upper + file(b"lib/x")))


def test_the_replaced_symlink_is_known_by_its_place_not_by_how_it_is_spelled() -> None:
    lower = LINKED + symlink(b"usr/lib/sub", b"../share") + file(b"usr/share/x")
    assert b"/usr/share/x" in names(merge(lower, folder(b"usr/lib/sub") + whiteout(b"lib/sub/x")))


def test_a_whiteout_in_front_of_the_folder_that_replaces_a_symlink_follows_it() -> None:
    for hide in (opaque(b"lib"), whiteout(b"lib/libc.so")):
        assert names(merge(LINKED, hide + folder(b"lib"))) == [b"/lib", b"/usr", b"/usr/lib"]


def test_a_whiteout_behind_another_symlink_follows_that_one() -> None:
    lower = LINKED + file(b"other/libc.so") + file(b"other/x")
    assert names(merge(lower, symlink(b"lib", b"other") + whiteout(b"lib/libc.so"))) == [
        b"/lib", b"/other", b"/other/x", b"/usr", b"/usr/lib", b"/usr/lib/libc.so",
    ]  # fmt: skip


@pytest.mark.parametrize("hide", [opaque(b"a"), whiteout(b"a/x"), folder(b"a/x") + opaque(b"a/x")])
def test_a_folder_may_replace_symlinks_in_a_circle(hide: Layer) -> None:
    upper = folder(b"a") + hide + file(b"a/f") + hardlink(b"g", b"a/f")
    root = merge(symlink(b"a", b"a"), upper)
    assert at(root, b"g") is at(root, b"a/f")
    assert names(merge(symlink(b"a", b"a"), opaque_folder(b"a"))) == [b"/a"]


def test_an_implied_parent_keeps_what_the_lower_layer_said_of_it() -> None:
    root = merge(LOWER, file(b"d/y") + file(b"new/y"))
    assert (at(root, b"d").mode, at(root, b"d").uid, at(root, b"d").mtime) == (stat.S_IFDIR | 0o700, 3, 55)
    new = at(root, b"new")
    assert (new.mode, new.uid, new.gid, new.mtime) == (stat.S_IFDIR | 0o755, 0, 0, 0)


def test_below_a_set_gid_folder_an_implied_one_has_its_group_and_bit() -> None:
    root = merge(folder(b"team", 0o2750, uid=3, gid=70), file(b"team/q/r/f"))
    for name in (b"team/q", b"team/q/r"):
        made = at(root, name)
        assert (made.mode, made.uid, made.gid) == (stat.S_IFDIR | 0o2755, 0, 70)


def test_a_folder_over_a_folder_takes_its_attributes_and_keeps_the_names() -> None:
    root = merge(LOWER, folder(b"d", 0o1777, uid=9, mtime=66))
    assert names(root) == names(merge(LOWER))
    assert (at(root, b"d").mode, at(root, b"d").uid, at(root, b"d").mtime) == (stat.S_IFDIR | 0o1777, 9, 66)


@pytest.mark.parametrize(
    ("lower", "upper", "shown"),
    [
        (folder(b"x") + file(b"x/in"), file(b"x"), [b"/x"]),
        (file(b"x"), folder(b"x") + file(b"x/in"), [b"/x", b"/x/in"]),
        (file(b"x"), file(b"x/in"), [b"/x", b"/x/in"]),
        (symlink(b"x", b"d") + folder(b"d"), folder(b"x") + file(b"x/in"), [b"/d", b"/x", b"/x/in"]),
        (folder(b"x") + file(b"x/in"), symlink(b"x", b"d"), [b"/x"]),
        (folder(b"x") + file(b"x/in"), member(b"x", kind=b"6"), [b"/x"]),
    ],
)
def test_the_upper_type_wins(lower: Layer, upper: Layer, shown: list[bytes]) -> None:
    assert names(merge(lower, upper)) == shown
    assert names(merge(lower + upper)) == shown


def test_the_later_of_two_entries_wins() -> None:
    root = empty_tree()
    files = merge_onto(root, file(b"x", 0o600) + file(b"./x", 0o640) + file(b"/y") + folder(b"y"))
    assert at(root, b"x").mode == stat.S_IFREG | 0o640
    assert [entry.path for entry in files] == [b"x"]


def test_parents_are_found_through_symlinks_of_the_layers_below() -> None:
    lower = symlink(b"lib", b"usr/lib") + file(b"usr/lib/old") + symlink(b"up", b"../../lib")
    upper = file(b"lib/new") + whiteout(b"up/old") + file(b"up/x/y")
    assert names(merge(lower, upper)) == [
        b"/lib", b"/up", b"/usr", b"/usr/lib", b"/usr/lib/new", b"/usr/lib/x", b"/usr/lib/x/y",
    ]  # fmt: skip


def test_a_dangling_symlink_on_the_way_is_made_true() -> None:
    assert names(merge(symlink(b"run", b"/var/run"), file(b"run/x"))) == [
        b"/run", b"/var", b"/var/run", b"/var/run/x",
    ]  # fmt: skip


def test_symlinks_in_a_circle_are_refused() -> None:
    with pytest.raises(LayerInvalid, match="entry 'a/x': more than 40 symbolic links"):
        merge(symlink(b"a", b"b") + symlink(b"b", b"a"), file(b"a/x"))


def test_a_folder_that_a_symlink_implies_has_a_name_that_an_image_can_have() -> None:
    def below(name: bytes) -> Node:
        return merge(long_link(name) + symlink(b"s", b""), file(b"s/x"))

    assert names(below(b"n" * 255)) == [b"/" + b"n" * 255, b"/" + b"n" * 255 + b"/x", b"/s"]
    with pytest.raises(LayerInvalid, match="entry 's/x': a directory whose name has 256 bytes"):
        below(b"n" * 256)


def test_a_tree_cannot_be_made_deeper_than_paths_can_be_long() -> None:
    step = b"/d" * 1000
    first = long_link(b"s0" + step) + symlink(b"s1", b"")
    second = long_link(b"s1" + step) + symlink(b"s2", b"")
    with pytest.raises(LayerInvalid, match="directories deep"):
        merge(folder(b"s0"), first, second, pax((b"path", b"s2" + step + b"/x")) + file(b"x"))


def test_hard_links_share_the_inode_and_do_not_change_it() -> None:
    root = merge(
        file(b"a", 0o600, uid=5, mtime=7) + symlink(b"s", b"a"),
        hardlink(b"b", b"a", uid=9, mtime=99) + hardlink(b"t", b"s") + hardlink(b"c", b"b"),
    )
    assert at(root, b"b") is at(root, b"a") is at(root, b"c")
    assert (at(root, b"a").mode, at(root, b"a").uid, at(root, b"a").mtime) == (stat.S_IFREG | 0o600, 5, 7)
    assert at(root, b"t") is at(root, b"s")


@pytest.mark.parametrize("name", [b"usr/a", b"./usr/a", b"s/a"])
def test_a_hard_link_to_itself_changes_nothing(name: bytes) -> None:
    root = empty_tree()
    files = merge_onto(root, symlink(b"s", b"usr") + file(b"usr/a") + hardlink(name, b"usr/a"))
    assert [entry.path for entry in files] == [b"usr/a"]
    assert files[0].node is at(root, b"usr/a")
    merge_onto(root, hardlink(name, b"usr/a"))
    assert at(root, b"usr/a") is files[0].node
    # It is no further name, so what replaces the file replaces all of it.
    again = merge_onto(root, file(b"usr/a") + hardlink(name, b"usr/a") + file(b"usr/a", 0o600))
    assert [entry.node for entry in again] == [at(root, b"usr/a")]


@pytest.mark.parametrize("early", [True, False])
def test_a_hard_link_to_what_the_same_layer_removes_keeps_the_file(early: bool) -> None:
    parts = [hardlink(b"kept", b"gone"), whiteout(b"gone")]
    root = merge(LOWER, b"".join(parts if early else reversed(parts)))
    assert b"gone" not in root.children
    assert at(root, b"kept").size == len(b"gone")


def test_a_hard_link_outlives_its_target_in_later_layers() -> None:
    root = merge(file(b"a") + hardlink(b"b", b"a"), whiteout(b"a"), file(b"b2") + hardlink(b"c", b"b"))
    assert names(root) == [b"/b", b"/b2", b"/c"]
    assert at(root, b"b") is at(root, b"c")


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([hardlink(b"b", b"nothing")], "entry 'b': a hard link to 'nothing', which is in no layer"),
        ([LOWER, hardlink(b"b", b"d")], "a hard link to the directory 'd'"),
        ([LOWER, whiteout(b"gone"), hardlink(b"b", b"gone")], "in no layer up to here"),
        ([member(b"./", b"root")], "the root is not a directory"),
        ([member(b".wh.")], "names nothing"),
        ([member(b"d/.wh...")], "names nothing"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(layers: list[Layer], said: str) -> None:
    with pytest.raises(LayerInvalid, match=said) as caught:
        merge(*layers)
    assert str(caught.value).startswith("layer sha256:abc")


def test_the_root_has_the_attributes_of_the_last_layer_that_describes_it() -> None:
    root = merge(folder(b"./", 0o711, uid=4, mtime=5), file(b"x"))
    assert (root.mode, root.uid, root.mtime, names(root)) == (stat.S_IFDIR | 0o711, 4, 5, [b"/x"])
    default = merge(file(b"x"))
    assert (default.mode, default.uid, default.mtime) == (stat.S_IFDIR | 0o755, 0, 0)


def test_aufs_bookkeeping_is_not_shown() -> None:
    assert names(merge(folder(b".wh..wh.plnk") + file(b".wh..wh.plnk/1.2") + file(b".wh..wh.aufs"))) == []


def test_xattrs_are_kept_dropped_or_refused_by_their_meaning() -> None:
    records = {
        b"user.a": b"1",
        b"security.capability": b"\1\0",
        b"system.posix_acl_access": b"\2",
        b"trusted.overlay.origin": b"o",
        b"system.nfs4_acl": b"n",
        b"com.apple.x": b"m",
    }
    layer = pax(*((b"SCHILY.xattr." + name, value) for name, value in records.items())) + file(b"x")
    dropped: Counter[str] = Counter()
    root = merge(layer, dropped=dropped)
    kept = {name: records[name] for name in (b"user.a", b"security.capability", b"system.posix_acl_access")}
    assert at(root, b"x").xattrs == kept
    assert dropped == {"system.nfs4_acl": 1, "com.apple.x": 1}


@pytest.mark.parametrize("name", [b"redirect", b"metacopy"])
def test_overlays_that_point_elsewhere_are_refused(name: bytes) -> None:
    with pytest.raises(LayerUnsupported, match=r"entry 'x': trusted.overlay"):
        merge(pax((b"SCHILY.xattr.trusted.overlay." + name, b"/y")) + file(b"x"))


def test_files_come_in_an_order_that_only_their_names_decide() -> None:
    paths = [b"b", b"a/z", b"a-x/y", b"a/b/c", b"a/b/d", b"a/a"]
    orders = [
        [entry.path for entry in merge_onto(empty_tree(), b"".join(map(file, order)))]
        for order in (paths, sorted(paths), paths[::-1])
    ]
    assert orders[0] == [b"b", b"a/a", b"a/z", b"a/b/c", b"a/b/d", b"a-x/y"]
    assert orders[0] == orders[1] == orders[2]


PATHS = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(b"/".join)
# Never a parent, so the model need not follow it.
LEAVES = st.tuples(PATHS, st.sampled_from([b"/l", b"/m"])).map(b"".join)
OPERATIONS = st.one_of(
    st.tuples(st.just("file"), PATHS, st.integers(0, 0o777)),
    st.tuples(st.just("folder"), PATHS, st.integers(0, 0o777)),
    st.tuples(st.just("symlink"), LEAVES, st.just(0)),
    st.tuples(st.just("hardlink"), PATHS, st.integers(0, 20)),
    st.tuples(st.just("whiteout"), PATHS, st.just(0)),
    st.tuples(st.just("char"), PATHS, st.just(0)),
    st.tuples(st.just("opaque"), PATHS, st.just(0)),
)


class Model:
    """What layers mean, said again in the simplest way: a dictionary of paths, searched by prefix."""

    def __init__(self) -> None:
        self.names: dict[bytes, tuple[str, int, int]] = {}  # kind, permissions, inode
        self.serial = 0

    def apply(self, layer: list[tuple[str, bytes, int]]) -> Layer:
        """The layer as tar members; hard links get a target that exists then."""
        for kind, path, _ in layer:
            if kind in ("whiteout", "char"):
                self._remove(path, itself=True)
            elif kind == "opaque":
                self._remove(path, itself=False)
        members = []
        for kind, path, number in layer:
            if kind == "file":
                members.append(file(path, number))
                self._put(path, "file", number)
            elif kind == "folder":
                members.append(folder(path, number))
                self._put(path, "folder", number)
            elif kind == "symlink":
                members.append(symlink(path, b"t"))
                self._put(path, "symlink", 0o777)
            elif kind == "hardlink":
                targets = sorted(name for name, entry in self.names.items() if entry[0] == "file")
                targets = [name for name in targets if not path.startswith(name + b"/")]
                if targets:
                    target = targets[number % len(targets)]
                    members.append(hardlink(path, target))
                    self._put(path, *self.names[target])
            else:
                spelling = {"whiteout": whiteout, "char": char_whiteout, "opaque": opaque}[kind]
                members.append(spelling(path))
        return b"".join(members)

    def _remove(self, path: bytes, *, itself: bool) -> None:
        below = [name for name in self.names if name.startswith(path + b"/") or (itself and name == path)]
        for name in below:
            del self.names[name]

    def _put(self, path: bytes, kind: str, permissions: int, inode: int | None = None) -> None:
        parts = path.split(b"/")
        for depth in range(1, len(parts)):
            parent = b"/".join(parts[:depth])
            if self.names.get(parent, ("",))[0] != "folder":
                self._new(parent, "folder", 0o755)
        if kind != "folder" or self.names.get(path, ("",))[0] != "folder":
            self._remove(path, itself=False)
        self._new(path, kind, permissions, inode)

    def _new(self, path: bytes, kind: str, permissions: int, inode: int | None = None) -> None:
        self.serial += 1
        self.names[path] = (kind, permissions, self.serial if inode is None else inode)


KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(OPERATIONS, max_size=12), max_size=4))
def test_random_layers_merge_as_the_model_says(layers: list[list[tuple[str, bytes, int]]]) -> None:
    model = Model()
    root = merge(*[model.apply(layer) for layer in layers])
    found = {path[1:]: node for path, node in walk(root) if path != b"/"}
    shown = {path: (KINDS[stat.S_IFMT(node.mode)], stat.S_IMODE(node.mode)) for path, node in found.items()}
    assert shown == {path: entry[:2] for path, entry in model.names.items()}
    files = sorted(path for path, entry in model.names.items() if entry[0] == "file")
    for first in files:
        for second in files:
            assert (found[first] is found[second]) == (model.names[first][2] == model.names[second][2])
