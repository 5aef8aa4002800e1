"""Every one of the forty cases has a test, and the table in the documentation says which."""

from __future__ import annotations

from tests.registry_client.cases import TABLE, TITLES, shown_cases, table


def test_every_case_is_shown() -> None:
    assert sorted(set(TITLES) - {one.case for one in shown_cases()}) == []


def test_the_table_is_up_to_date() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(), "run: python -m tests.registry_client.cases"
