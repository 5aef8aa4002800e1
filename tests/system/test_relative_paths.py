"""Paths in arguments mean what they mean where the command is called; a mount server works elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.launch.published import publish
from tests.support.command import COMMAND
from tests.support.debian_registry import DebianRegistry
from tests.support.fixtures import fixture
from tests.support.images import image_of
from tests.support.trees import file, tree
from tests.system.test_fuse_mount import Place, nopull, place

pytestmark = pytest.mark.system
__all__ = ["place"]


def test_relative_options_are_those_of_the_command(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DebianRegistry(accounts={"alice": "planted"}) as registry:
        authfile = place.base / "auth.json"
        account = {"username": "alice", "password": "planted"}
        authfile.write_text(json.dumps({"auths": {registry.host: account}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(authfile))
        reference = f"{registry.host}/app:v1"
        publish(image_of(tree(file(b"f", b"x" * 5000))), reference, place.base)
        monkeypatch.delenv("REGISTRY_AUTH_FILE")
        monkeypatch.chdir(place.base)
        options = ["--driver", "fuse", "--authfile", "auth.json", "--root", "root"]
        done = subprocess.run(
            [*COMMAND, "mount", *options, reference, "mountpoint"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert (place.mountpoint / "f").read_bytes() == b"x" * 5000
    bare = fixture("nydus") / "v6-2.2"
    Path("bare").mkdir()
    Path("image.boot").write_bytes((bare / "rafs-v6-2.2.boot").read_bytes())
    blobs = os.path.relpath(bare)
    done = nopull(place, "mount", "--driver", "fuse", "rafs:image.boot", "bare", "--blob-dir", blobs)
    assert done.returncode == 0, done.stderr
    assert any(path.is_file() for path in (place.base / "bare").rglob("*"))
