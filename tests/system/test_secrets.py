"""Passwords and tokens are in no argument, environment, file, log or traceback of a mount that fails."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from launch.kernel_mounts.keeper_start import keeper_status
from tests.launch.published import publish
from tests.registry_client.sample import noise
from tests.support.command import COMMAND, clear
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.token_server import TokenServer
from tests.support.trees import file, tree

pytestmark = pytest.mark.system

NAME, PASSWORD = "alice", "planted-5ecret"
ALL = frozenset({"pull", "push"})


class Machine:
    """A registry that wants tokens, an image in it, and a state root; taken down at the end."""

    def __init__(self, base: Path, tokens: TokenServer, registry: DebianRegistry) -> None:
        self.base, self.tokens, self.registry = base, tokens, registry
        self.root, self.mountpoint = base / "root", base / "mountpoint"
        self.mountpoint.mkdir()
        self.reference = f"{registry.host}/app:v1"
        self.said = b""

    def command(self, *words: str) -> int:
        whole = [*COMMAND, "--log-level", "debug", *words, "--root", str(self.root)]
        done = subprocess.run(whole, capture_output=True, timeout=100, check=False)
        self.said += done.stdout + done.stderr
        return done.returncode

    def mount(self, driver: str, *options: str) -> int:
        account = ["--creds", f"{NAME}:{PASSWORD}"]
        words = ["mount", "--driver", driver, *options, *account, self.reference, str(self.mountpoint)]
        return self.command(*words)

    def everything(self) -> bytes:
        """All that was printed, that lies in files, and that other users can see of our processes."""
        files = [path for path in self.root.rglob("*") if path.is_file() and "windows" not in path.parts]
        found = [self.said, *(path.read_bytes() for path in files)]
        mark = os.fsencode(self.base)
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                if mark in arguments or b"nopull" in arguments:
                    names = [one / "comm" for one in (entry / "task").iterdir()]
                    found += [arguments, *(one.read_bytes() for one in (entry / "environ", *names))]
        return b"\n".join(found)

    def clear(self) -> None:
        clear(self.base, self.root)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with (
        TokenServer({NAME: (PASSWORD, ALL)}) as tokens,
        DebianRegistry(settings=tokens.settings(tmp_path)) as registry,
    ):
        authfile = tmp_path / "publisher.json"
        entry = {"username": NAME, "password": PASSWORD}
        authfile.write_text(json.dumps({"auths": {registry.host: entry}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(authfile))
        image = image_of(tree(file(b"f", noise(3_000_000, 1)), file(b"g", noise(3_000_000, 2))))
        publish(image, f"{registry.host}/app:v1", tmp_path)
        monkeypatch.delenv("REGISTRY_AUTH_FILE")
        monkeypatch.setenv("HOME", str(tmp_path))
        made = Machine(tmp_path, tokens, registry)
        try:
            yield made
        finally:
            made.clear()


@pytest.mark.parametrize("driver", ["fuse", "auto"])
def test_a_mount_that_works_and_then_fails_shows_no_secret(machine: Machine, driver: str) -> None:
    assert machine.mount(driver, "--no-background") == 0, machine.said
    assert (machine.mountpoint / "f").read_bytes() == noise(3_000_000, 1)
    status = keeper_status(machine.root)
    if status is not None:
        os.kill(status["filler"], signal.SIGKILL)  # the next one has the account from the keeper
    assert (machine.mountpoint / "g").read_bytes() == noise(3_000_000, 2)
    working = machine.everything()
    machine.registry.stop()
    machine.command("explain", str(machine.mountpoint))
    machine.command("ps", "--json")
    machine.command("umount", str(machine.mountpoint))
    machine.registry.start()
    given = [one.token for one in machine.tokens.asked if one.token]
    assert given
    machine.tokens.accounts = {NAME: ("another", ALL)}
    machine.reference = f"{machine.registry.host}/app:v2"
    assert machine.mount(driver) == 4
    assert b"refuses the account 'alice'" in machine.said
    assert b"Traceback" in machine.said, "debug shows where it came from"
    shown = working + machine.everything()
    assert b"nopull" in shown
    for secret in (PASSWORD, *given):
        assert secret.encode() not in shown
        assert base64.b64encode(f"{NAME}:{secret}".encode()) not in shown
