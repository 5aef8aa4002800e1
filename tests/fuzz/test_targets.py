"""What fuzzing starts from is answered: each parser gives its seeds a result or an error of its own."""

from __future__ import annotations

from contextlib import suppress

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_answered(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for seed in seeds:
        with suppress(*target.errors):
            target.run(seed)


@pytest.mark.parametrize("name", ["image", "tar-image", "inflate", "bootstrap-layer", "tar", "record"])
def test_seeds_that_are_right_are_read_to_their_end(name: str) -> None:
    for seed in TARGETS[name].seeds():
        TARGETS[name].run(seed)
