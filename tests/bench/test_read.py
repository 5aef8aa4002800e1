"""`nopull bench read` and `mounts`: verdicts from measurements, without measuring."""

from __future__ import annotations

import pytest

from bench.kernel_images import MIB
from bench.mounts import lines as mount_lines
from bench.read import EROFS, EXT4, FUSE, WANTED, _figures, lines
from bench.read_parts import percentile
from bench.read_times import half_compressible


def test_percentiles_are_values_that_occur() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(list(range(100)), 0.99) == 99
    assert percentile([5.0], 0.99) == 5.0


def test_files_compress_to_half() -> None:
    import zlib

    ((name, content),) = half_compressible(1, MIB, 1)
    assert name == "f00000" and len(content) == MIB
    assert 0.45 < len(zlib.compress(content)) / MIB < 0.6


MEASURED = {
    "miss": {"parts": [1.0, 1.0], FUSE: [1.2, 1.3], EROFS: [2.5, 2.5]},
    "parallel": {"mb_per_second": {FUSE: [80.0]}, "processors_could_mb_per_second": 100.0},
    "warm": {EXT4: [100.0], FUSE: [90.0], EROFS: [99.0]},
    "names": {"cold": {FUSE: [20_000.0]}, "again_questions": {FUSE: [0, 1]}},
    "base": {FUSE: {"received_bytes": 105, "unique_bytes": 100}},
}


def test_each_figure_is_held_against_its_limit_for_each_driver() -> None:
    figures = _figures(MEASURED)
    assert set(figures[FUSE]) == set(WANTED)
    shown = lines({"figures": figures})
    verdicts = {tuple(line.split()[:2]): line.split()[-1] for line in shown}
    assert verdicts == {
        ("miss_p50_over_parts", FUSE): "met",
        ("miss_p50_over_parts", EROFS): "MISSED",
        ("miss_p99_over_parts", FUSE): "met",
        ("miss_p99_over_parts", EROFS): "MISSED",
        ("parallel_share_of_processors", FUSE): "met",
        ("warm_over_ext4", FUSE): "MISSED",
        ("warm_over_ext4", EROFS): "met",
        ("names_cold_per_second", FUSE): "met",
        ("names_again_questions", FUSE): "MISSED",
        ("base_bytes_over_unique", FUSE): "met",
    }


@pytest.mark.parametrize(("value", "verdict"), [(1.9, "met"), (2.1, "MISSED")])
def test_mounts_are_held_against_their_limits(value: float, verdict: str) -> None:
    kernel = {"ms": [1.0], "windows": 1, "image_mb": 1.0, "localise_ms": 1.0, "make_files_ms": 1.0}
    figures = {
        "server_rss_mb": 30.0,
        "further_mount_anon_mb": value,
        "further_mount_same_image_anon_mb": 0.1,
        "erofs_35000_names_ms": 1.0,
    }
    shown = mount_lines({"figures": figures, "measured": {"names": kernel, "windows": kernel}})
    assert [line.split()[-1] for line in shown[:4]] == ["met", verdict, "met", "met"]
