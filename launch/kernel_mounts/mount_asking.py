"""Asking the keeper for kernel mounts, and waiting for what it says to each. Thread-safe; serves `filler`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from erofs_fs.errors import ErofsForbidden, ErofsMissing, MountFailed
from erofs_fs.holds import make_hold
from launch.errors import MountImpossible
from launch.images.image_request import ImageRequest

_MADE_SECONDS: Final = 30.0  # the keeper makes a mount within this
_REFUSALS = {kind.__name__: kind for kind in (ErofsMissing, ErofsForbidden, MountFailed)}


@dataclass(slots=True)
class _Asked:
    """A mount that a keeper was asked for, in these words."""

    words: Mapping[str, Any]
    answer: Mapping[str, Any] | None = None
    keepers_lost: int = 0


class MountAsking:
    """What the keeper of the store below *root* was asked for and has not answered yet; *say* tells it."""

    def __init__(self, root: Path, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._root = root
        self._say = say
        # Protects what was asked. A leaf.
        self._changed = threading.Condition(threading.Lock())
        self._asked: dict[str, _Asked] = {}  # by the mount's id

    def ask(self, mount_id: str, image: Path, request: ImageRequest) -> None:
        """Have the localised image in the file *image* mounted; it waits at the keeper to be taken.

        Raises:
            MountImpossible: the keeper did not answer, or was killed, and the next one, too.
            ErofsError, OSError: the mount could not be made.
        """
        words = {"ask": "mount", "id": mount_id, "image": str(image)}
        asked = _Asked({**words, "request": request.to_json(secrets=True)})
        hold = make_hold(self._root, mount_id, image, request.to_json(secrets=False))
        try:
            with self._changed:
                self._asked[mount_id] = asked
            self._say(asked.words)
            with self._changed:
                self._changed.wait_for(lambda: asked.answer is not None, _MADE_SECONDS)
            _raise_refusal(asked.answer)
        finally:
            os.close(hold)
            with self._changed:
                self._asked.pop(mount_id, None)

    def is_asked(self, mount_id: str) -> bool:
        """Whether that mount is about to be made."""
        with self._changed:
            return mount_id in self._asked

    def answer(self, said: Mapping[str, Any]) -> None:
        """The keeper has *said* what became of a mount."""
        with self._changed:
            asked = self._asked.get(str(said["made"]))
            if asked is not None:
                asked.answer = said
                self._changed.notify_all()

    def ask_again(self) -> None:
        """A keeper that is gone answers no more; ask the next one, once. A mount that was made and not taken
        went with its keeper.
        """
        with self._changed:
            open_ = [asked for asked in self._asked.values() if asked.answer is None]
            for asked in open_:
                asked.keepers_lost += 1
                if asked.keepers_lost > 1:
                    said = "the keeper was killed meanwhile, or stopped and replaced, twice; try again"
                    asked.answer = {"refused": said}
            self._changed.notify_all()
        for asked in open_:
            if asked.answer is None:
                self._say(asked.words)


def _raise_refusal(answer: Mapping[str, Any] | None) -> None:
    if answer is None:
        raise MountImpossible("the keeper did not answer when it was asked for a mount; try again")
    if "refused" not in answer:
        return
    if answer.get("errno"):
        raise OSError(answer["errno"], f"making a kernel mount: {os.strerror(answer['errno'])}")
    raise _REFUSALS.get(str(answer.get("kind")), MountImpossible)(str(answer["refused"]))
