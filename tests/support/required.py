"""`--required FILE`: a run that is green only if each test of a list was run and has passed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--required FILE`."""
    parser.addoption(
        "--required",
        type=Path,
        default=None,
        metavar="FILE",
        help="fail unless every test named in FILE (one id a line, # for remarks) was run and has passed",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch the required tests when a list of them was given."""
    listed: Path | None = config.getoption("--required")
    # Of a distributed run only the process that collects all reports can tell.
    if listed is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(RequiredTests(read_required(listed)), "required-tests")


def read_required(listed: Path) -> list[str]:
    """Return the test ids of a list; a line may name a test, a class or a whole file."""
    lines = (line.partition("#")[0].strip() for line in listed.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


class RequiredTests:
    """Turns the run into a failure when a required test is absent, was skipped or did not pass.

    Without this a system test that nobody can run any more (a missing program, a wrong mark) would
    leave a green run behind.
    """

    def __init__(self, required: list[str]) -> None:
        self._required = required
        self._passed: set[str] = set()
        self._other: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        elif not report.passed:
            self._other.add(report.nodeid)

    def unmet(self) -> Iterator[str]:
        """Yield one line for each required id that did not pass."""
        for wanted in self._required:
            if any(_belongs(nodeid, wanted) for nodeid in self._other):
                yield f"{wanted}: skipped or failed"
            elif not any(_belongs(nodeid, wanted) for nodeid in self._passed):
                yield f"{wanted}: no such test was run"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if any(self.unmet()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.unmet():
            terminalreporter.write_line(f"required test not passed: {line}", red=True)


def _belongs(nodeid: str, wanted: str) -> bool:
    return nodeid == wanted or nodeid.startswith((f"{wanted}::", f"{wanted}["))
