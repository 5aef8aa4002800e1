"""What `nopull pull` says when it cannot keep what it fetches."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import nopull
from command import exit_codes
from tests.builder.layouts import Layout
from tests.builder.tar_bytes import member


def test_an_image_larger_than_the_cache_may_be_is_told_once_with_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = (member(b"f%d" % number, random.Random(number).randbytes(1 << 20)) for number in range(4))
    Layout(tmp_path / "in").add_image([b"".join(files) + bytes(1024)])
    image = f"oci:{tmp_path}/out:app"
    assert nopull.main(["convert", f"oci:{tmp_path}/in:app", image]) == 0
    capfd.readouterr()
    words = ["pull", "--cache-size", "1MB", "--root", str(tmp_path / "root"), image]
    assert nopull.main(words) == exit_codes.DISK_FULL
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert f"in {tmp_path}/root/windows: the cache has reached its limit of 1.0 MB" in told[0]
    assert told[0].endswith("or give it more with --cache-size")
