"""Asking the keeper for kernel mounts, and waiting for what it says to each. Thread-safe; serves `filler`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from erofs_fs.errors import ErofsForbidden, ErofsMissing, MountFailed
from erofs_fs.holds import make_hold
from launch.errors import MountImpossible
from launch.images.image_request import ImageRequest

_MADE_SECONDS: Final = 30.0  # the keeper makes a mount within this
_REFUSALS = {kind.__name__: kind for kind in (ErofsMissing, ErofsForbidden, MountFailed)}


class MountAsking:
    """What the keeper of the store below *root* was asked for and has not answered yet; *say* tells it."""

    def __init__(self, root: Path, say: Callable[[Mapping[str, Any]], None]) -> None:
        self._root = root
        self._say = say
        # Protects the answers. A leaf.
        self._changed = threading.Condition(threading.Lock())
        self._answers: dict[str, Mapping[str, Any] | None] = {}  # by the mount's id

    def ask(self, mount_id: str, image: Path, request: ImageRequest) -> None:
        """Have the localised image in the file *image* mounted; it waits at the keeper to be taken.

        Raises:
            MountImpossible: the keeper did not answer, or was killed.
            ErofsError, OSError: the mount could not be made.
        """
        with self._changed:
            self._answers[mount_id] = None
        try:
            hold = make_hold(self._root, mount_id, image, request.to_json(secrets=False))
            try:
                asked = {"ask": "mount", "id": mount_id, "image": str(image)}
                self._say({**asked, "request": request.to_json(secrets=True)})
                _raise_refusal(self._await(mount_id))
            finally:
                os.close(hold)
        finally:
            with self._changed:
                del self._answers[mount_id]

    def is_asked(self, mount_id: str) -> bool:
        """Whether that mount is about to be made."""
        with self._changed:
            return mount_id in self._answers

    def answer(self, said: Mapping[str, Any]) -> None:
        """The keeper has *said* what became of a mount."""
        with self._changed:
            if str(said["made"]) in self._answers:
                self._answers[str(said["made"])] = said
                self._changed.notify_all()

    def lose(self) -> None:
        """A keeper that is gone answers no more."""
        with self._changed:
            for mount_id, answer in self._answers.items():
                if answer is None:
                    said = "the keeper was killed meanwhile, or stopped and replaced; try again"
                    self._answers[mount_id] = {"refused": said}
            self._changed.notify_all()

    def _await(self, mount_id: str) -> Mapping[str, Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._answers[mount_id] is not None, _MADE_SECONDS)
            return self._answers[mount_id]


def _raise_refusal(answer: Mapping[str, Any] | None) -> None:
    if answer is None:
        raise MountImpossible("the keeper did not answer when it was asked for a mount; try again")
    if "refused" not in answer:
        return
    if answer.get("errno"):
        raise OSError(answer["errno"], f"making a kernel mount: {os.strerror(answer['errno'])}")
    raise _REFUSALS.get(str(answer.get("kind")), MountImpossible)(str(answer["refused"]))
