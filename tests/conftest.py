"""What holds for every test: a fixed random profile, system tests for root only, required tests."""

from __future__ import annotations

import gc
import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from tests.support import required

NO_ROOT = "needs root"

# A run must not depend on luck or on a busy machine: the same examples every time and no clock.
# `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile(
    "ci", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--required FILE`."""
    required.pytest_addoption(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Watch the required tests when a list of them was given; let what is started hear signals."""
    # A shell starts background jobs with SIGINT and SIGQUIT ignored, nohup anything with SIGHUP ignored, and
    # what ignores them hands that on.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    required.pytest_configure(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out system tests when we are not root; begin with what waits longest, for package sources."""
    items.sort(key=lambda item: "materials" not in getattr(item, "fixturenames", ()))
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("system") is not None:
            item.add_marker(pytest.mark.skip(reason=NO_ROOT))


def pytest_collection_finish() -> None:
    """Keep the collector from going through a hundred thousand objects of the tests' own again and again."""
    gc.collect()
    gc.freeze()
