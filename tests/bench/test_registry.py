"""What `nopull bench registry` says of its measurements, and what the documentation says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.registry import WANTED, lines, markdown

ROOT = Path(__file__).resolve().parent.parent.parent
PUBLISHED: dict[str, Any] = json.loads((ROOT / "bench" / "results" / "registry.json").read_text("utf-8"))


def test_the_documentation_has_the_table_of_the_published_run() -> None:
    page = (ROOT / "docs" / "measurements-registry.md").read_text(encoding="utf-8").splitlines()
    rows = markdown(PUBLISHED)
    start = page.index(rows[0])
    assert page[start : start + len(rows)] == rows


def test_a_figure_that_is_missed_is_called_missed() -> None:
    quotients = {**PUBLISHED["quotients"], "small_range_cpu": 1.41, "small_range_rate": 0.79}
    told = {line.split()[0]: line.split()[-1] for line in lines({**PUBLISHED, "quotients": quotients})[1:]}
    verdicts = {name: told[name] for name in WANTED}
    assert [name for name, verdict in verdicts.items() if verdict == "MISSED"] == [
        "small_range_cpu",
        "small_range_rate",
    ]
    assert set(verdicts.values()) == {"met", "MISSED"}


def test_every_measured_kind_is_shown_with_its_extremes() -> None:
    told = lines(PUBLISHED)
    for name, values in PUBLISHED["measured"].items():
        (line,) = [one for one in told if one.split()[0] == name]
        assert len(line.split()) == 4
        assert len(values) == PUBLISHED["runs"]
