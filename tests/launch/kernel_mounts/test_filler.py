"""A filler without a keeper: what it says of what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunk_store import ChunkStore
from erofs_fs.keeper_words import NEED, Word
from launch.images.image_request import ImageRequest
from launch.kernel_mounts import filler, fillings
from launch.kernel_mounts.filler import Filler
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.chunk_store.blobs import eventually


def test_an_image_that_readers_ask_for_in_vain_again_and_again_is_a_few_lines_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(filler, "_MOST_LINES", 3)
    monkeypatch.setattr(fillings, "_REST_SECONDS", 0.0)
    with ChunkStore(tmp_path / "store") as store:
        made = Filler(store, tmp_path / "root")
        missing = ImageRequest(parse_reference(f"oci:{tmp_path}/nothing:v1"), RegistryOptions())
        made._mounts.add("mount", missing)
        for _ in range(10):
            made._needs.need(Word(NEED, "0" * 64, 4096))
            assert eventually(lambda: not made._fillings.opening)
        made.close()
    assert caplog.text.count("cannot be filled: ") == 3
