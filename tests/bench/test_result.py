"""A result keeps every run, its medians and shares are those of the runs, and it survives its JSON form."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.contestants import counters_of
from bench.errors import BenchError
from bench.plot import draw
from bench.result import FULL_PULL, NOPULL, Counters, Fetched, Image, Result, Run, read_result
from bench.result_table import print_result, rows, summary
from bench.verbs import bench

LINK, FAST = "20ms-200mbit", "loopback"


def counters(demand: int, hot: int) -> Counters:
    """Counters with these compressed bytes demanded, of an image with 100 MB of content."""
    return Counters(
        demand=Fetched(3, demand),
        hot=Fetched(1, hot),
        background=Fetched(2, 5_000_000),
        touched_bytes=7_000_000,
        image_bytes=100_000_000,
        waited_seconds=0.5,
        peak_memory_bytes=40_000_000,
    )


def run(contestant: str, seconds: float, link: str = LINK, count: Counters | None = None) -> Run:
    """One run with plausible traffic."""
    return Run(link, contestant, 1, seconds, 6, 20_000_000, 21_000_000 if link == LINK else None, count)


def result(*runs: Run) -> Result:
    """A result over both links; the image has 50 MB compressed."""
    return Result(
        made="2026-01-01T00:00:00+00:00",
        image=Image("demo image", 3, 50_000_000, "sha256:00", 45_000_000),
        machine={"cores": "2"},
        versions={"nopull": "0"},
        conditions=["cold"],
        commands={NOPULL: ["nopull run x"]},
        bits_per_second={FAST: None, LINK: 200e6},
        runs=list(runs),
    )


RESULT = result(
    run(NOPULL, 1.0, count=counters(9_000_000, 1_000_000)),
    run(FULL_PULL, 4.0),
    run(NOPULL, 3.0, count=counters(9_000_000, 3_000_000)),
    run(FULL_PULL, 5.0),
    run(NOPULL, 2.0, count=counters(8_000_000, 1_000_000)),
    run(FULL_PULL, 9.0),
    run(NOPULL, 0.5, FAST, counters(1_000_000, 0)),
)


def test_ratio_is_of_medians_and_only_where_both_ran() -> None:
    assert RESULT.ratio(LINK) == 2.0 / 5.0
    assert RESULT.ratio(FAST) is None


def test_demanded_share_counts_demand_and_hot_list_and_not_background() -> None:
    assert RESULT.demanded_share(LINK) == 10_000_000 / 50_000_000


def test_floor_is_bytes_over_the_rate_and_unknown_without_one() -> None:
    assert RESULT.floor_seconds(LINK, 50_000_000) == 2.0
    assert RESULT.floor_seconds(FAST, 50_000_000) is None


def test_json_form_is_read_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(RESULT.to_json(), encoding="utf-8")
    assert read_result(file) == RESULT
    assert json.loads(file.read_text(encoding="utf-8"))["summary"][0]["median_seconds"] == 2.0


def test_table_has_a_row_per_contestant_and_the_floors_of_a_link_of_known_rate() -> None:
    assert [(row[0], row[1]) for row in rows(RESULT, LINK)] == [
        (NOPULL, "2.00"),
        (FULL_PULL, "5.00"),
        ("floor: demanded", "0.40"),
        ("floor: all", "2.00"),
    ]
    assert [(row[0], row[1]) for row in rows(RESULT, FAST)] == [(NOPULL, "0.50")]


def test_plain_table_is_aligned_text_without_control_characters() -> None:
    out = io.StringIO()
    print_result(RESULT, out)
    lines = out.getvalue().splitlines()
    assert not any("\x1b" in line for line in lines)
    heading = next(line for line in lines if line.startswith(LINK))
    ours = lines[lines.index(heading) + 1]
    assert heading.index("ready s") + len("ready s") == ours.index("2.00") + len("2.00")
    assert f"{LINK}: nopull is ready in 0.40 of the time of pull and run" in lines


class Terminal(io.StringIO):
    """Text that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_table_on_a_terminal_of_80_columns_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    print_result(RESULT, out)
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert "…" not in text
    for row in rows(RESULT, LINK):
        assert all(cell in text for cell in row)


def test_summary_names_the_largest_memory_of_each_kind_of_mount() -> None:
    assert "nopull: a mount's processes together at most 40.0 MB resident" in summary(RESULT)


def test_plot_is_written_in_the_form_its_name_asks_for(tmp_path: Path) -> None:
    draw(RESULT, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_plot_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^drawing .*plot\.png: "):
        draw(RESULT, tmp_path / "absent" / "plot.png")


def test_counters_are_read_from_the_answer_of_a_mount_server() -> None:
    progress = {
        "demand": {"requests": 3, "compressed_bytes": 30, "windows": 2},
        "hot": {"requests": 2, "compressed_bytes": 20, "windows": 1},
        "background": {"requests": 1, "compressed_bytes": 10, "windows": 1},
        "touched_bytes": 4096,
        "bytes_total": 40960,
        "waited_seconds": 0.25,
    }
    found = counters_of(progress, memory=5)
    assert (found.demanded_bytes, found.background, found.image_bytes) == (50, Fetched(1, 10), 40960)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made": 1}'])
def test_file_that_is_no_result_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=r"^reading .*x\.json: not a result"):
        read_result(tmp_path / "x.json")


def test_report_prints_the_table_of_a_result_file_and_draws_it(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(RESULT.to_json(), encoding="utf-8")
    arguments = ["report", str(tmp_path / "x.json"), "--plot", str(tmp_path / "x.svg")]
    done = CliRunner().invoke(bench, arguments)
    assert done.exit_code == 0, done.output
    assert "demo image: 3 layers, 50.0 MB" in done.output
    assert b"<svg" in (tmp_path / "x.svg").read_bytes()


@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--json", "absent/found.json", "there is no directory"),
        ("--plot", "absent/found.svg", "there is no directory"),
        ("--plot", "found.gif", "expected a name that ends with .png or .svg"),
    ],
)
def test_a_result_that_could_not_be_written_is_not_measured(
    tmp_path: Path, option: str, name: str, says: str
) -> None:
    words = ["startup", "--image", f"oci:{tmp_path}/none", option, str(tmp_path / name)]
    refused = CliRunner().invoke(bench, words)
    assert refused.exit_code == 2
    assert says in refused.output
