"""Conversion against others' tools: umoci unpacks the same trees, Debian's registry keeps what we publish."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import nopull
from tests.builder.host_tree import differences, host_tree
from tests.builder.layouts import Layout, Published, convert_layout
from tests.builder.tar_bytes import END, long_name, member, pax
from tests.support.debian_registry import Access, DebianRegistry
from tests.support.trees import (
    char_device,
    directory,
    fifo,
    file,
    hardlink,
    layer_tar,
    opaque,
    symlink,
    tree,
    whiteout,
)

pytestmark = pytest.mark.system

RANDOM = random.Random(17)
LONG = RANDOM.randbytes(700_000)

LOWER = layer_tar(
    [
        tree(
            directory(
                b"usr",
                directory(b"lib", file(b"libx.so", LONG, mode=0o755, mtime=1_600_000_000), mtime=77),
                mtime=66,
            ),
            symlink(b"lib", b"usr/lib", mtime=5),
            directory(b"d", file(b"x", b"x"), file(b"hidden", b"h"), mode=0o1770, uid=3, gid=4, mtime=55),
            directory(b"e", file(b"old", b"old"), directory(b"s", file(b"deep", b"d")), mode=0o711),
            file(b"a", b"aa", mode=0o4711, uid=5, mtime=7),
            symlink(b"sl", b"a", mtime=8),
            file(b"gone", b"gone"),
            directory(b"type", file(b"in", b"in")),
            fifo(b"pipe", mode=0o620, mtime=3),
            char_device(b"null", 1, 3, mode=0o666),
            mode=0o755,
            mtime=11,
        )
    ]
)
UPPER = b"".join(
    (
        member(b"b", kind=b"1", link=b"a", mode=0o777, uid=9, mtime=99),
        member(b"hsl", kind=b"1", link=b"sl"),
        member(b"g2", kind=b"1", link=b"gone"),
        member(b".wh.gone"),
        member(b"lib/new", b"new", mtime=21),
        member(b"lib/.wh.libx.so"),
        member(b"d/y", b"y", mtime=22),
        member(b"d/.wh.hidden"),
        member(b"e", kind=b"5", mode=0o722, mtime=45),
        member(b"e/.wh..wh..opq"),
        member(b"e/s/new", b"n", mtime=1),
        member(b"dup", b"1"),
        member(b"dup", b"22", mode=0o600, mtime=2),
        member(b"./dot", b".", mtime=4),
        member(b"/absolute", b"/", mtime=4),
        member(b"implied/q/f", b"f"),
        member(b"team", kind=b"5", mode=0o2775, gid=70),
        member(b"team/q/r/f", b"f"),
        member(b"type", b"a file now", mtime=6),
        member(b"up/../clamped", b"c", mtime=12),
        pax((b"mtime", b"1234567890.123456789"), (b"SCHILY.xattr.user.key", b"\0\xff"), (b"uid", b"300000")),
        member(b"exact", b"e"),
        pax((b"path", b"d/\xff\xfe")),
        member(b"ignored", b"bytes in a name", mtime=13),
        long_name(b"/".join([b"n" * 120] * 3)),
        member(b"short", b"long", mtime=14),
        member(b"last", b"no padding behind this", mtime=15, padded=False),
    )
)


@pytest.fixture(autouse=True)
def root_needed() -> None:
    if os.geteuid() != 0:
        pytest.skip("umoci unpack keeps owners and devices only for root")


def umoci(*arguments: str | Path) -> None:
    subprocess.run(["umoci", *map(str, arguments)], check=True, capture_output=True)


def against_umoci(layout: Path, scratch: Path) -> list[str]:
    """How `layout:app` converted differs from what umoci unpacks of it."""
    began = int(time.time())
    umoci("unpack", "--image", f"{layout}:app", scratch / "bundle")
    convert_layout(layout, scratch / "out")
    image = Published(scratch / "out")
    assert image.findings() == []
    return differences(image.shown(), host_tree(scratch / "bundle/rootfs"), unpacked_at=began)


def test_layers_with_every_oddity_merge_as_umoci_unpacks_them(tmp_path: Path) -> None:
    Layout(tmp_path / "in").add_image([LOWER, UPPER])
    assert against_umoci(tmp_path / "in", tmp_path) == []


LINKED = [
    member(b"usr/lib/libc.so", b"C" * 50),
    member(b"usr/lib/deep/x", b"x"),
    member(b"lib", kind=b"2", link=b"usr/lib"),
    member(b"usr/lib/sub", kind=b"2", link=b"../share"),
    member(b"usr/share/x", b"x"),
    member(b"other/libc.so", b"another"),
]
FOLDER = member(b"lib/", kind=b"5", mode=0o755)
NEW = member(b"lib/new", b"n")


@pytest.mark.parametrize(
    "upper",
    [
        FOLDER + member(b"lib/.wh..wh..opq") + NEW,
        member(b"lib/.wh..wh..opq") + FOLDER + NEW,
        FOLDER + member(b"lib/.wh.libc.so") + NEW,
        member(b"lib/.wh.libc.so") + FOLDER + NEW,
        FOLDER + member(b"lib/deep/.wh.x"),
        FOLDER + member(b"lib/sub/f", b"f") + member(b"lib/.wh..wh..opq"),
        NEW + FOLDER + member(b"lib/.wh..wh..opq"),
        member(b".wh.lib") + FOLDER + member(b"lib/.wh..wh..opq"),
        member(b"usr/lib/sub/", kind=b"5", mode=0o755) + member(b"lib/sub/.wh.x"),
        member(b"lib", kind=b"2", link=b"other") + member(b"lib/.wh.libc.so"),
        member(b"lib/.wh.libc.so") + member(b"lib", kind=b"2", link=b"other"),
        member(b"lib", b"a file") + member(b"lib/.wh.libc.so"),
    ],
)
def test_whiteouts_where_a_symlink_is_replaced_hide_what_umoci_removes(tmp_path: Path, upper: bytes) -> None:
    Layout(tmp_path / "in").add_image([b"".join([*LINKED, END]), upper + END])
    assert against_umoci(tmp_path / "in", tmp_path) == []


@pytest.mark.parametrize("seed", range(4))
def test_what_umoci_packs_of_a_changing_tree_is_the_last_state_of_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    umoci("init", "--layout", tmp_path / "in")
    umoci("new", "--image", f"{tmp_path / 'in'}:app")
    umoci("unpack", "--image", f"{tmp_path / 'in'}:app", tmp_path / "work")
    rootfs = tmp_path / "work/rootfs"
    for _ in range(4):
        for _ in range(25):
            change(rootfs, chance)
        umoci("repack", "--refresh-bundle", "--image", f"{tmp_path / 'in'}:app", tmp_path / "work")
    (tmp_path / "add").mkdir()
    (tmp_path / "add/program").write_text("inserted by a tool that does not end its tars")
    umoci("insert", "--image", f"{tmp_path / 'in'}:app", tmp_path / "add", "/opt/added")
    assert against_umoci(tmp_path / "in", tmp_path) == []


CHANGES = ("file", "file", "folder", "symlink", "link", "remove", "mode", "owner", "time", "xattr")


def change(rootfs: Path, chance: random.Random) -> None:
    """One thing that somebody might do in a container."""
    existing = sorted(path for path in rootfs.rglob("*"))
    folders = [rootfs, *(path for path in existing if path.is_dir() and not path.is_symlink())]
    files = [path for path in existing if path.is_file() and not path.is_symlink()]
    target = chance.choice(folders) / chance.choice("abcdefgh")
    kind = chance.choice(CHANGES)
    if kind in ("mode", "owner", "time", "xattr") and files:
        path = chance.choice(files)
        if kind == "mode":
            path.chmod(chance.randrange(0o10000))
        elif kind == "owner":
            os.chown(path, chance.randrange(70000), chance.randrange(70000))
        elif kind == "time":
            os.utime(path, ns=(0, chance.randrange(-(10**18), 10**18)))
        else:
            os.setxattr(path, "user.test", chance.randbytes(20))
        return
    if kind == "remove" and existing:
        target = chance.choice(existing)
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    if kind == "file":
        target.write_bytes(chance.randbytes(chance.choice([0, 1, 5000, 300_000])))
    elif kind == "folder":
        target.mkdir(mode=chance.randrange(0o1000))
    elif kind == "symlink":
        target.symlink_to("/" + chance.choice("abcdefgh"))
    elif kind == "link" and files and (origin := chance.choice(files)).exists():
        target.hardlink_to(origin)


@pytest.fixture
def registry() -> Iterator[DebianRegistry]:
    with DebianRegistry() as running:
        yield running


def push(layout: Path, registry: DebianRegistry, name: str, *options: str) -> None:
    arguments = ["skopeo", "copy", "--dest-tls-verify=false", *options]
    subprocess.run(
        [*arguments, f"oci:{layout}:app", f"docker://{registry.host}/{name}"], check=True, capture_output=True
    )


def test_from_registry_to_registry_and_again_without_sending_a_blob(
    registry: DebianRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image([LOWER, UPPER])
    push(tmp_path / "in", registry, "app:1")
    source, destination = f"{registry.host}/app:1", f"{registry.host}/lazy/app:1"
    assert nopull.main(["convert", source, destination]) == 0
    digest = capsys.readouterr().out.splitlines()[-1].rpartition(" ")[2]
    lines = len(registry.accesses())
    assert nopull.main(["convert", source, destination]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{destination}: {digest}"
    sent = [line.method for line in registry.accesses()[lines:]]
    assert sent.count("PUT") == 1, "only the manifest"
    assert "POST" not in sent
    assert "PATCH" not in sent

    back = f"oci:{tmp_path / 'back'}:lazy"
    fetch = ["skopeo", "copy", "--src-tls-verify=false", f"docker://{destination}", back]
    subprocess.run(fetch, check=True, capture_output=True)
    image = Published(tmp_path / "back")
    assert image.digest == digest
    assert image.findings() == []
    convert_layout(tmp_path / "in", tmp_path / "direct")
    assert image.shown() == Published(tmp_path / "direct").shown()


def test_wrong_credentials_missing_images_and_silent_registries_have_their_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image([LOWER])
    source = f"oci:{tmp_path / 'in'}:app"
    with DebianRegistry(accounts={"me": "secret"}) as registry:
        destination = f"{registry.host}/app:1"
        assert nopull.main(["convert", "--creds", "me:wrong", source, destination]) == 4
        assert "wrong" not in capsys.readouterr().err
        assert nopull.main(["convert", "--creds", "me:secret", destination, f"oci:{tmp_path / 'never'}"]) == 5
        assert nopull.main(["convert", "--creds", "me:secret", source, destination]) == 0
    assert nopull.main(["convert", source, destination]) == 3
    assert str(destination).partition("/")[0] in capsys.readouterr().err


@contextmanager
def small_disk(where: Path, size: str) -> Iterator[Path]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", where], check=True)
    try:
        yield where
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", where], check=True)


def test_a_disk_that_fills_up_publishes_nothing_and_is_empty_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Layout(tmp_path / "in").add_image([LOWER, layer_tar([tree(file(b"big", RANDOM.randbytes(3_000_000)))])])
    with small_disk(tmp_path / "disk", "2M") as disk:
        arguments = [f"oci:{tmp_path / 'in'}:app", f"oci:{tmp_path / 'out'}:lazy", "--work-dir", str(disk)]
        assert nopull.main(["convert", *arguments]) == 9
        assert list(disk.iterdir()) == []
        assert shutil.disk_usage(disk).used == 0
    assert str(tmp_path / "disk") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_opaque_folders_and_whiteouts_of_other_writers(tmp_path: Path) -> None:
    folder = directory(b"d", opaque(), file(b"z", b"z"), hardlink(b"l", b"/d/z"))
    upper = layer_tar([tree(folder, whiteout(b"a"))])
    Layout(tmp_path / "in").add_image([LOWER, upper + END])
    assert against_umoci(tmp_path / "in", tmp_path) == []


def seen_until(registry: DebianRegistry, lines: int, last: str) -> list[Access]:
    """Accesses from number *lines* on, once the PUT of a manifest whose path ends with *last* is logged."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        seen = registry.accesses()[lines:]
        if any(line.method == "PUT" and line.path.endswith(last) for line in seen):
            return seen
        time.sleep(0.02)
    raise AssertionError(f"no PUT of {last} in the log")


def upload_sizes(registry: DebianRegistry, seen: list[Access]) -> int:
    """Bytes of all blobs that were put, as the registry keeps them."""
    puts = [line.path for line in seen if line.method == "PUT" and "digest=" in line.path]
    digests = [path.rpartition("digest=")[2].replace("%3A", ":") for path in puts]
    return sum(registry_blob_size(registry, digest) for digest in digests)


def registry_blob_size(registry: DebianRegistry, digest: str) -> int:
    with urlopen(Request(f"{registry.url}/v2/lazy/blobs/{digest}", method="HEAD")) as answer:
        return int(answer.headers["Content-Length"])


def application(version: int) -> tuple[list[bytes], bytes]:
    """A base that all versions share, and an application layer of its own."""
    base = [member(b"usr/f%d" % number, BASE_BYTES[number * 7 :], mode=0o755) for number in range(40)]
    base.append(member(b"bin/sh", b"#!/usr/f1\n", mode=0o755))
    app = random.Random(version).randbytes(500_000)
    return [b"".join(base) + END, member(b"app/main", app) + END], app


BASE_BYTES = RANDOM.randbytes(800_000)


def test_the_second_version_moves_only_what_is_new(
    registry: DebianRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = []
    for version in (1, 2):
        layers, app = application(version)
        Layout(tmp_path / f"v{version}").add_image(layers, config={"Cmd": ["/bin/sh"]})
        push(tmp_path / f"v{version}", registry, f"app:{version}")
        lines = len(registry.accesses())
        command = ["convert", "--json", f"{registry.host}/app:{version}", f"{registry.host}/lazy:{version}"]
        assert nopull.main(command) == 0
        seen = seen_until(registry, lines, f"/manifests/{version}")
        reports.append(json.loads(capsys.readouterr().out)["images"][0])
    known = reports[1]["layers"][0]
    assert known["reused"]
    assert known["blob"] == reports[0]["layers"][0]["blob"]
    fetched = [line.path for line in seen if line.method == "GET"]
    assert not any(known["digest"] in path or known["blob"] in path for path in fetched)
    assert sum("/uploads/" in line.path and line.method == "PUT" for line in seen) == 3
    assert upload_sizes(registry, seen) <= 1.2 * len(app)
    check = ["check", f"{registry.host}/lazy:2", "--against", f"{registry.host}/app:2"]
    assert nopull.main(check) == 0


def test_a_dictionary_of_another_repository_is_mounted(
    registry: DebianRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers, _ = application(1)
    Layout(tmp_path / "v1").add_image(layers)
    assert nopull.main(["convert", f"oci:{tmp_path / 'v1'}:app", f"{registry.host}/lazy:1"]) == 0
    changed = layer_tar([tree(file(b"copy", BASE_BYTES), file(b"new", b"new"))])
    Layout(tmp_path / "v2").add_image([changed])
    lines = len(registry.accesses())
    source, destination = f"oci:{tmp_path / 'v2'}:app", f"{registry.host}/other/team:2"
    assert nopull.main(["convert", "--chunk-dict", f"{registry.host}/lazy:1", source, destination]) == 0
    capsys.readouterr()
    seen = seen_until(registry, lines, "/manifests/2")
    mounts = [line for line in seen if "mount=" in line.path]
    assert [line.status for line in mounts] == [201]
    assert nopull.main(["check", destination, "--against", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_a_conversion_that_was_killed_goes_on_without_pushing_again_what_is_there(
    registry: DebianRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [RANDOM.randbytes(5) for _ in range(5000)]
    slow = b"".join(RANDOM.choices(words, k=12_000_000))
    layers = [layer_tar([tree(file(b"first", BASE_BYTES))]), member(b"slow", slow) + END]
    Layout(tmp_path / "in").add_image(layers, store=bytes)
    source, destination = f"oci:{tmp_path / 'in'}:app", f"{registry.host}/lazy:1"
    command = [sys.executable, "-P", nopull.__file__, "convert", "--jobs", "1", source, destination]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        try:
            pushed = first_push(registry)
        finally:
            running.kill()
    assert running.wait() == -signal.SIGKILL, "it was still at work"
    assert not any("/manifests/" in line.path for line in registry.accesses() if line.method == "PUT")

    lines = len(registry.accesses())
    assert nopull.main(["convert", source, destination]) == 0
    digest = capsys.readouterr().out.splitlines()[-1].rpartition(" ")[2]
    seen = seen_until(registry, lines, "/manifests/1")
    assert [line.status for line in seen if line.method == "HEAD" and line.path.endswith(pushed)] == [200]
    assert not any(line.method == "PUT" and line.path.endswith(pushed) for line in seen)
    assert digest == convert_layout(tmp_path / "in", tmp_path / "fresh").digest


def first_push(registry: DebianRegistry) -> str:
    """The digest of the first blob that was put, as soon as it is there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for line in registry.accesses():
            if line.method == "PUT" and line.status == 201:
                return line.path.rpartition("digest=")[2]
        time.sleep(0.01)
    raise AssertionError("nothing was pushed")
