"""`nopull inspect` and `nopull explain` say what an image or a mount is, for people and for scripts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import nopull
from command import exit_codes
from launch import mounts
from launch.explain import explain_layers, explain_mount, mount_lines
from launch.mounts import MountRecord
from registry_client.digest import digest_of
from registry_client.manifest import Descriptor, Manifest, MediaType
from registry_client.selection import CONFIG_LIMIT
from tests.launch.published import publish
from tests.support.images import image_of
from tests.support.trees import directory, file, tree


@pytest.fixture
def layout(tmp_path: Path) -> str:
    content = b"a program\n" * 9000
    image = image_of(
        tree(directory(b"bin", file(b"program", content, mode=0o755)), file(b"text", b"x" * 50_000)),
        prefetch=[b"/bin/program"],
    )
    reference = f"oci:{tmp_path / 'layout'}:v1"
    publish(image, reference, tmp_path)
    return reference


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOPULL_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


def run(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert nopull.main(arguments) == code
    return capfd.readouterr().out


def layer(media_type: str) -> Descriptor:
    return Descriptor(media_type, digest_of(media_type.encode()), 5_000_000)


def ordinary(*layers: Descriptor) -> Manifest:
    config = layer(MediaType.OCI_CONFIG)
    return Manifest(b"", MediaType.OCI_MANIFEST, digest_of(b""), config, layers, {}, None)


def test_inspect_tells_scripts_what_an_image_is_made_of(
    layout: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(run(capfd, "inspect", "--json", layout))
    assert facts["converted"] is True
    assert facts["platform"] == "linux/amd64"
    assert facts["hot"] == ["/bin/program"]
    assert facts["config"]["cmd"] == ["/bin/program"]
    assert facts["inodes"] == 4
    assert facts["chunks"] == sum(blob["chunks"] for blob in facts["blobs"]) == 3
    assert facts["compressed_size"] == sum(layer["size"] for layer in facts["layers"])
    assert facts["uncompressed_size"] == 4096 * (22 + 13)
    assert facts["units"] >= facts["windows"] >= 1


@pytest.mark.parametrize("command", ["inspect", "check", "pull"])
def test_an_image_for_another_platform_than_was_asked_for_is_refused(
    layout: str, root: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    assert nopull.main([command, "--platform", "linux/arm64", layout]) == 6
    assert "made for linux/amd64, asked for was linux/arm64" in capfd.readouterr().err
    assert nopull.main([command, "--platform", "foo", layout]) == 2


@pytest.mark.parametrize("config", [b'{"config":' + b"[" * 100_000, b'{"config": {"User": "\\ud800"}}', b"5"])
def test_a_config_that_nobody_can_use_is_no_defect_of_ours(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str], config: bytes
) -> None:
    reference = f"oci:{tmp_path / 'layout'}:v1"
    publish(image_of(tree(file(b"a", b"a"))), reference, tmp_path, config=config)
    facts = json.loads(run(capfd, "inspect", "--json", reference))
    assert facts["config"] is None
    verdict = json.loads(run(capfd, "check", "--json", reference, code=6))
    assert [finding["rule"] for finding in verdict["findings"]] == ["config"]


@pytest.mark.parametrize("annotated", [True, False], ids=["converted", "ordinary"])
def test_a_config_of_any_size_takes_no_memory(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str], annotated: bool
) -> None:
    reference = f"oci:{tmp_path / 'layout'}:v1"
    config = b"{}" + b" " * CONFIG_LIMIT
    publish(image_of(tree(file(b"a", b"a"))), reference, tmp_path, config=config, annotated=annotated)
    out = f"oci:{tmp_path}/out:v1"
    commands = [["inspect", reference], ["convert", "--platform", "amd64", reference, out]]
    for command in [*commands, *([["check", reference]] if annotated else [])]:
        assert nopull.main(command) == 6
        told = capfd.readouterr()
        assert f"its config has {len(config)} bytes, at most {CONFIG_LIMIT}" in told.out + told.err


def test_an_ordinary_image_for_another_platform_is_not_described_as_one_for_it(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reference = f"oci:{tmp_path / 'plain'}:v1"
    publish(image_of(tree(file(b"a", b"a"))), reference, tmp_path, annotated=False)
    run(capfd, "inspect", "--platform", "linux/arm64", reference, code=6)
    assert json.loads(run(capfd, "inspect", "--json", reference))["platform"] == "linux/amd64"


def test_inspect_tells_people_the_same(layout: str, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = run(capfd, "inspect", layout)
    for words in ("RAFS v6", "143.4 kB", "3 chunks", "hot          /bin/program", '["/bin/program"]'):
        assert words in text


@pytest.mark.parametrize("count", [12, 13, 1000, 1500])
def test_hot_files_are_counted_before_their_list_is_cut(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str], count: int
) -> None:
    names = [f"{number:04}".encode() for number in range(count)]
    image = image_of(tree(*(file(name, b"a") for name in names)), prefetch=[b"/" + name for name in names])
    reference = f"oci:{tmp_path / 'layout'}:v1"
    publish(image, reference, tmp_path)
    facts = json.loads(run(capfd, "inspect", "--json", reference))
    assert (len(facts["hot"]), facts["hot_count"]) == (min(count, 1000), count)
    assert facts["prefetch_count"] == count
    lines = run(capfd, "inspect", reference).splitlines()
    listed = "the first 1000" if count > 1000 else "them all"
    told = f"hot          and {count - 12} more; --json lists {listed}"
    assert [line for line in lines if "more;" in line] == ([told] if count > 12 else [])


@pytest.mark.parametrize("annotated", [True, False], ids=["converted", "ordinary"])
def test_what_an_image_says_reaches_no_terminal_as_it_is(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str], annotated: bool
) -> None:
    raw = "\x1b[31mX\nlayer \x9b\u202e"
    words = {"User": raw, "WorkingDir": '"plain', "Env": [f"A={raw}"], "Cmd": [raw, "é"]}
    config = {"os": "linux", "architecture": f"amd64{raw}", "config": words}
    name = raw.encode()
    image = image_of(tree(file(name, b"a")), prefetch=(b"/" + name,))
    reference = f"oci:{tmp_path / 'layout'}:v1"
    publish(image, reference, tmp_path, config=config, annotated=annotated)
    text = run(capfd, "inspect", reference)
    assert all(line.isprintable() for line in text.splitlines())
    assert [line.split()[0] for line in text.splitlines()].count("user") == 1
    assert f"user         {json.dumps(raw)}" in text and 'working_dir  "\\"plain"' in text
    assert json.loads(run(capfd, "inspect", "--json", reference))["config"]["user"] == raw


def test_inspect_prints_the_tree_a_line_per_name(
    layout: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = run(capfd, "inspect", "--files", layout).splitlines()
    assert [line.split()[0] for line in lines] == ["/", "/bin", "/bin/program", "/text"]


def test_an_ordinary_image_is_described_and_said_not_to_be_converted(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reference = f"oci:{tmp_path / 'plain'}:v1"
    publish(image_of(tree(file(b"f", b"x"))), reference, tmp_path, annotated=False)
    assert json.loads(run(capfd, "inspect", "--json", reference))["converted"] is False
    assert "not converted" in run(capfd, "inspect", reference)
    assert "not lazy" in run(capfd, "explain", reference)
    assert run(capfd, "inspect", "--files", reference, code=6) == ""


def test_explain_says_of_each_layer_whether_it_is_lazy_and_why(
    layout: str, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts = json.loads(run(capfd, "explain", "--json", layout))
    assert [found["lazy"] for found in facts["layers"]] == [True, False]
    assert all(found["reason"] for found in facts["layers"])
    text = run(capfd, "explain", layout)
    assert "layer 1" in text
    assert "not lazy" in text


@pytest.mark.parametrize(
    ("media_type", "says"),
    [
        (MediaType.OCI_LAYER_GZIP, "gzip"),
        (MediaType.OCI_LAYER_ZSTD, "zstd"),
        (MediaType.OCI_LAYER, "a tar: "),
    ],
)
def test_an_ordinary_layer_is_not_lazy_because_of_its_packing(media_type: str, says: str) -> None:
    (found,) = explain_layers(ordinary(layer(media_type)), converted=False)
    assert found["lazy"] is False
    assert says in found["reason"]


def test_a_directory_without_a_mount_cannot_be_explained(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert nopull.main(["explain", str(tmp_path)]) == exit_codes.NOT_FOUND
    assert "no mount of nopull is there" in capfd.readouterr().err


def test_a_path_of_nothing_is_neither_a_mount_nor_an_image(
    tmp_path: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert nopull.main(["explain", f"{tmp_path}/typo"]) == exit_codes.NOT_FOUND
    assert f"cannot explain {tmp_path}/typo: nothing is there" in capfd.readouterr().err


def record(root: Path) -> MountRecord:
    return MountRecord(
        id="x", mountpoint=root / "there", reference="host/app:1", digest="sha256:abc", driver="fuse",
        pids={"server": 1 << 22}, births={"server": 1}, started=0.0, device="0:99",
        control=root / "run" / "x.sock", log=root / "log",
    )  # fmt: skip


def test_a_mount_whose_server_is_silent_is_explained_without_counters(
    root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "run").mkdir(parents=True)
    mounts.write_record(root, record(root))
    facts = json.loads(run(capfd, "explain", "--json", str(root / "there")))
    assert facts["progress"] is None
    assert "x.sock" in facts["silent"]
    assert facts["state"] == "gone"
    assert "counters unknown" in run(capfd, "explain", str(root / "there"))


def test_counters_are_told_by_class_with_what_readers_waited(root: Path) -> None:
    facts = explain_mount(replace(record(root), warnings=("old tag",), metrics="127.0.0.1:9"), root)
    count = {"requests": 3, "windows": 2, "compressed_bytes": 1_500_000}
    facts |= {
        "pids": [{"role": "server", "pid": 7, "does": "serves", "resident_bytes": 41_000_000}],
        "progress": {
            "windows_total": 40, "windows_present": 10, "bytes_total": 40_000_000,
            "bytes_present": 10_000_000, "demand": count, "hot": count, "background": count,
            "touched_windows": 4, "touched_bytes": 81_920, "waited_seconds": 0.125, "trouble": "no route",
            "windows_awaited": 2, "windows_evicted": 5,
        },
    }  # fmt: skip
    text = "\n".join(mount_lines(facts))
    for words in (
        "host/app:1@sha256:abc", "fuse: ", "41.0 MB of memory", "10 of 40 windows", "(25 %)", "demand",
        "background", "1.5 MB", "81.9 kB", "0.12 s", "trouble  no route", "warning  old tag",
        "metrics  http://127.0.0.1:9/metrics", "2 absent windows", "30.0 MB: fetched when read\n",
        "5 of these made room: fetched again only when read; the others else behind that",
    ):  # fmt: skip
        assert words in text
    assert "else behind that" not in "\n".join(mount_lines({**facts, "background": False}))
    facts["progress"] |= {"windows_evicted": 30, "windows_awaited": 1}
    text = "\n".join(mount_lines(facts))
    assert "behind that" not in text, "what made room is not fetched before it is read"
    assert "what an absent window holds" in text
    facts["progress"] |= {"windows_evicted": 0, "windows_present": 39}
    assert "missing  1 window, 30.0 MB: fetched when read, else behind that" in "\n".join(mount_lines(facts))
