"""The kernel mounts that a filler knows, and what image each shows. Thread-safe; serves `filler`."""

from __future__ import annotations

import threading
from typing import Any

from launch.images.image_request import ImageRequest


def image_name(request: ImageRequest) -> str:
    """Says exactly which image *request* means."""
    return f"{request.reference} {request.platform} {request.blob_dir}"


class ShownMounts:
    """By id, which is used once. What methods return is the caller's."""

    def __init__(self) -> None:
        # Protects the two below. A leaf.
        self._lock = threading.Lock()
        self._requests: dict[str, ImageRequest] = {}
        self._facts: dict[str, dict[str, Any]] = {}  # of mounts whose image is not filled any more

    def add(self, mount_id: str, request: ImageRequest) -> ImageRequest:
        """There is, or is about to be, that mount; what is known of it now: as it was, if it was, secrets
        among it.
        """
        with self._lock:
            return self._requests.setdefault(mount_id, request)

    def forget(self, mount_id: str) -> None:
        """That mount is gone, or was not made."""
        with self._lock:
            self._requests.pop(mount_id, None)
            self._facts.pop(mount_id, None)

    def image_of(self, mount_id: str) -> str | None:
        """The name of what that mount shows; None: there is no such mount."""
        request = self._requests.get(mount_id)
        return None if request is None else image_name(request)

    def requests(self) -> dict[str, ImageRequest]:
        """What opens the image of each mount again."""
        with self._lock:
            return dict(self._requests)

    def images(self) -> dict[str, ImageRequest]:
        """What is shown, by name."""
        return {image_name(request): request for request in self.requests().values()}

    def showing(self, name: str) -> list[str]:
        """The mounts that show the image *name*."""
        return [mount_id for mount_id, request in self.requests().items() if image_name(request) == name]

    def keep_facts(self, mount_id: str, facts: dict[str, Any]) -> None:
        """What filling the image of that mount has cost, now that nothing of it is missing."""
        with self._lock:
            if mount_id in self._requests:
                self._facts[mount_id] = facts

    def facts(self, mount_id: str) -> dict[str, Any] | None:
        """What `keep_facts` was told."""
        return self._facts.get(mount_id)
