"""What a shared server is asked for is what the command was asked for, wherever that was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.images.image_request import ImageRequest
from launch.mount_request import MountRequest, from_json
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference

OPTIONS = RegistryOptions(creds="somebody:secret")
REQUEST = MountRequest(
    ImageRequest(parse_reference("oci:layout:1"), OPTIONS, cache_size=1 << 30),
    Path("place"),
    Path("root"),
    driver="fuse",
    isolate=True,
    metrics_address=("127.0.0.1", 9100),
    shared=True,
)


def test_it_is_the_same_after_a_journey() -> None:
    asked = REQUEST.in_any_directory()
    assert from_json(json.loads(json.dumps(asked.to_json()))) == asked


def test_its_paths_are_understood_where_it_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = REQUEST.in_any_directory()
    monkeypatch.chdir("/")
    found = (asked.image.reference.path, asked.mountpoint, asked.root)
    assert found == (tmp_path / "layout", tmp_path / "place", tmp_path / "root")
