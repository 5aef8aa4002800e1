"""What `nopull run` refuses before it touches anything, and what it tells a runtime about this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from launch.containers.oci_spec import Wanted
from launch.containers.run import RunRequest, run_image, this_host
from launch.containers.run_errors import RootNeeded, RunError, RuntimeMissing
from launch.images.image_request import ImageRequest
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference


def request(root: Path, wanted: Wanted | None = None) -> RunRequest:
    image = ImageRequest(parse_reference("localhost/app"), RegistryOptions())
    return RunRequest(image, root, wanted or Wanted())


def test_without_root_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RootNeeded, match="sudo"):
        run_image(request(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_without_a_runtime_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeMissing, match="package runc"):
        run_image(request(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_that_is_not_there_cannot_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    with pytest.raises(RunError, match="leave -t out"):
        run_image(request(tmp_path, Wanted(terminal=True)))


def test_the_host_is_described_as_it_is() -> None:
    host = this_host()
    assert host.hostname == socket.gethostname()
    assert {"proc", "tmpfs"} <= host.filesystems
    assert all(Path(file).is_file() for file in host.bound_files)
    assert 0 <= host.capability_bits < 1 << 64
