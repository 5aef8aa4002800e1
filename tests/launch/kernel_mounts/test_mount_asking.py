"""What becomes of a mount that the keeper was asked for: made, refused, or the keeper dies."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from erofs_fs.errors import ErofsForbidden
from erofs_fs.holds import hold_path, lives
from launch.errors import MountImpossible
from launch.images.image_request import ImageRequest
from launch.kernel_mounts.mount_asking import MountAsking
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference

REQUEST = ImageRequest(parse_reference("localhost/app:1"), RegistryOptions(creds="somebody:secret"))
Answer = Mapping[str, Any]


class Keeper:
    """Answers at once with what it was told to, and remembers what it was asked."""

    def __init__(self, root: Path, answer: Answer, deaths: int = 0) -> None:
        self.root = root
        self.answer = answer
        self.deaths = deaths  # so often it is killed instead, and there is another
        self.asked: list[Answer] = []
        self.held = False
        self.asking = MountAsking(root, self.hear)

    def hear(self, words: Answer) -> None:
        self.asked.append(words)
        self.held = lives(hold_path(self.root, str(words["id"])))
        assert self.asking.is_asked("m")
        if self.deaths:
            self.deaths -= 1
            self.asking.ask_again()
        else:
            self.asking.answer({"made": words["id"], **self.answer})


def test_a_mount_is_asked_for_while_its_hold_is_held_and_lies_without_secrets(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {})
    keeper.asking.ask("m", tmp_path / "image", REQUEST)
    (asked,) = keeper.asked
    assert (asked["ask"], asked["image"]) == ("mount", str(tmp_path / "image"))
    assert asked["request"]["options"]["creds"] == "somebody:secret"
    assert keeper.held and "secret" not in hold_path(tmp_path, "m").read_text()
    assert not keeper.asking.is_asked("m")


@pytest.mark.parametrize(
    ("answer", "expected", "said"),
    [
        ({"refused": "needs root", "kind": "ErofsForbidden", "errno": None}, ErofsForbidden, "needs root"),
        ({"refused": "odd", "kind": "Unheard", "errno": None}, MountImpossible, "odd"),
        ({"refused": "full", "kind": "OSError", "errno": errno.ENOSPC}, OSError, "No space left"),
    ],
)
def test_what_the_keeper_refuses_is_raised_as_it_was_there(
    tmp_path: Path, answer: Answer, expected: type[Exception], said: str
) -> None:
    keeper = Keeper(tmp_path, answer)
    with pytest.raises(expected, match=said):
        keeper.asking.ask("m", tmp_path / "image", REQUEST)
    assert not keeper.asking.is_asked("m")


def test_who_follows_a_keeper_that_was_killed_is_asked_for_the_same(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {}, deaths=1)
    keeper.asking.ask("m", tmp_path / "image", REQUEST)
    first, second = keeper.asked
    assert first == second and keeper.held
    assert not keeper.asking.is_asked("m")


def test_a_mount_that_two_keepers_have_not_survived_is_asked_of_no_third(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {}, deaths=2)
    with pytest.raises(MountImpossible, match="the keeper was killed"):
        keeper.asking.ask("m", tmp_path / "image", REQUEST)
    assert len(keeper.asked) == 2 and not keeper.asking.is_asked("m")
    keeper.asking.ask_again()
    assert len(keeper.asked) == 2


def test_an_answer_to_nobody_is_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, {})
    keeper.asking.answer({"made": "another"})
    assert not keeper.asking.is_asked("another")
