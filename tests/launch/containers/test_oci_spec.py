"""The runtime specification follows docker's rules: what runs, as whom, where, with which privileges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builder.image_documents import DEFAULT_PATH
from launch.containers.oci_spec import (
    CAPABILITIES,
    Host,
    Wanted,
    arguments,
    environment,
    runtime_spec,
    working_dir,
)
from launch.containers.run_errors import RunError
from launch.containers.users import ContainerUser
from launch.errors import ConfigInvalid
from launch.images.image_config import ImageConfig, load_config, parse_config

ALL_CAPABILITIES = (1 << 41) - 1
FILESYSTEMS = frozenset({"proc", "tmpfs", "devpts", "sysfs", "cgroup", "mqueue"})


def host(
    *, environment: dict[str, str] | None = None, capability_bits: int = ALL_CAPABILITIES,
    filesystems: frozenset[str] = FILESYSTEMS, bound_files: tuple[str, ...] = (),
) -> Host:
    return Host("box", environment or {}, capability_bits, filesystems, bound_files)


def spec(wanted: Wanted | None = None, on: Host | None = None, uid: int = 0) -> dict[str, Any]:
    user = ContainerUser(uid, uid, (uid, 7), "/home/someone")
    config = ImageConfig(command=("/x",))
    return runtime_spec(config, wanted or Wanted(), on or host(), user, Path("/r"))


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "given_entrypoint", "given", "runs"),
    [
        ((), ("ls", "-l"), None, (), ("ls", "-l")),
        (("e",), ("c",), None, (), ("e", "c")),
        (("e", "f"), (), None, (), ("e", "f")),
        (("e",), ("c",), None, ("x", "y"), ("e", "x", "y")),
        ((), ("c",), None, ("x",), ("x",)),
        (("e",), ("c",), "n", (), ("n",)),
        (("e",), ("c",), "n", ("x",), ("n", "x")),
        (("e",), ("c",), "", ("x",), ("x",)),
    ],
)
def test_entrypoint_and_command_combine_as_docker_combines_them(
    entrypoint: tuple[str, ...], cmd: tuple[str, ...], given_entrypoint: str | None, given: tuple[str, ...],
    runs: tuple[str, ...],
) -> None:
    config = ImageConfig(entrypoint=entrypoint, command=cmd)
    assert arguments(config, Wanted(command=given, entrypoint=given_entrypoint)) == runs


@pytest.mark.parametrize(
    ("config", "wanted"),
    [(ImageConfig(), Wanted()), (ImageConfig(entrypoint=("e",), command=("c",)), Wanted(entrypoint=""))],
)
def test_nothing_to_run_is_refused(config: ImageConfig, wanted: Wanted) -> None:
    with pytest.raises(RunError, match="names no command"):
        arguments(config, wanted)


@pytest.mark.parametrize(
    ("image", "given", "on_host", "expected"),
    [
        ((), (), {}, {"PATH": DEFAULT_PATH, "HOSTNAME": "box", "HOME": "/h"}),
        (("PATH=/bin",), (), {}, {"PATH": "/bin", "HOSTNAME": "box", "HOME": "/h"}),
        (("A=1", "B=2"), ("B=3", "C=x=y"), {}, {"A": "1", "B": "3", "C": "x=y"}),
        (("HOME=/image",), (), {}, {"HOME": "/image"}),
        (("A=1",), ("A=",), {}, {"A": ""}),
        ((), ("TOKEN",), {"TOKEN": "t", "OTHER": "o"}, {"TOKEN": "t"}),
        (("A=1",), ("A",), {}, {}),
        (("=odd", "BARE"), (), {}, {"BARE": ""}),
    ],
)
def test_environment_is_defaults_then_image_then_user(
    image: tuple[str, ...], given: tuple[str, ...], on_host: dict[str, str], expected: dict[str, str]
) -> None:
    lines = environment(ImageConfig(env=image), Wanted(env=given), host(environment=on_host), "/h")
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines)
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": "box", "HOME": "/h"}
    assert found == defaults | expected


def test_a_terminal_brings_term_unless_the_image_has_one() -> None:
    wanted = Wanted(terminal=True)
    assert "TERM=xterm" in environment(ImageConfig(), wanted, host(), "/")
    assert "TERM=vt100" in environment(ImageConfig(env=("TERM=vt100",)), wanted, host(), "/")


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [("", None, "/"), ("/a", None, "/a"), ("a", None, "/a"), ("/a", "/b", "/b"), ("", "b/c", "/b/c")],
)
def test_working_directory_is_absolute_and_the_users_wins(
    image: str, given: str | None, expected: str
) -> None:
    assert working_dir(ImageConfig(working_dir=image), Wanted(working_dir=given)) == expected


def test_root_gets_dockers_capabilities_and_others_only_the_bound() -> None:
    assert spec()["process"]["capabilities"] == {
        "bounding": list(CAPABILITIES), "effective": list(CAPABILITIES), "permitted": list(CAPABILITIES)
    }
    assert spec(uid=1000)["process"]["capabilities"] == {"bounding": list(CAPABILITIES)}


def test_a_capability_the_host_does_not_hold_is_not_asked_for() -> None:
    without_mknod = ALL_CAPABILITIES & ~(1 << CAPABILITIES["CAP_MKNOD"])
    bounding = spec(on=host(capability_bits=without_mknod))["process"]["capabilities"]["bounding"]
    assert set(CAPABILITIES) - set(bounding) == {"CAP_MKNOD"}


def test_the_network_is_the_hosts_and_everything_else_the_containers_own() -> None:
    kinds = {namespace["type"] for namespace in spec()["linux"]["namespaces"]}
    assert kinds == {"pid", "ipc", "uts", "mount"}
    assert spec()["hostname"] == "box"


def test_host_files_are_bound_read_only_and_unknown_file_systems_left_out() -> None:
    mounts = spec(on=host(filesystems=FILESYSTEMS - {"mqueue"}, bound_files=("/etc/hosts",)))["mounts"]
    by_target = {mount["destination"]: mount for mount in mounts}
    assert "/dev/mqueue" not in by_target
    assert by_target["/etc/hosts"]["source"] == "/etc/hosts"
    assert "ro" in by_target["/etc/hosts"]["options"]
    assert [m["destination"] for m in mounts][:2] == ["/proc", "/dev"]


def test_user_terminal_and_read_only_reach_the_specification() -> None:
    made = spec(wanted=Wanted(terminal=True, read_only=True), uid=5)
    assert made["process"]["user"] == {"uid": 5, "gid": 5, "additionalGids": [5, 7]}
    assert made["process"]["terminal"] is True
    assert made["root"] == {"path": "/r", "readonly": True}
    assert "HOME=/home/someone" in made["process"]["env"]
    assert made["process"]["noNewPrivileges"] is False


def test_config_is_read_from_the_documents_config_object() -> None:
    section = {"Entrypoint": ["/e"], "Cmd": None, "Env": ["A=1"], "WorkingDir": "/w", "User": "app"}
    assert parse_config({"config": section}) == ImageConfig(("/e",), (), ("A=1",), "/w", "app")
    assert parse_config({}) == ImageConfig()
    assert parse_config({"config": None}) == ImageConfig()


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"a":' + b"[" * 100_000, b"[]", b"null"])
def test_a_config_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ConfigInvalid, match=r"it is not (JSON|a JSON object)"):
        load_config(raw)
    assert load_config(b'{"os": "linux"}') == {"os": "linux"}


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("text", "config"),
        ({"Cmd": "ls -l"}, "Cmd"),
        ({"Entrypoint": ["a", 1]}, "Entrypoint"),
        ({"Env": {"A": "1"}}, "Env"),
        ({"WorkingDir": 3}, "WorkingDir"),
        ({"User": 0}, "User"),
        ({"User": "a\ud800"}, "User"),
        ({"WorkingDir": "/a\0b"}, "WorkingDir"),
        ({"Cmd": ["/bin/sh", "\0"]}, "Cmd"),
        ({"Env": ["A=\udcff"]}, "Env"),
    ],
)
def test_a_config_of_other_types_is_refused_by_field(section: object, field: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"`{field}`"):
        parse_config({"config": section})
