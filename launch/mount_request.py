"""Which image is to be mounted where, and how: what a command asks of whoever mounts.

Plain values, and their way to a shared server; what becomes of them is in `mounting`, `session` and the
drivers' modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.images import image_request
from launch.images.image_request import ImageRequest, absolute
from launch.log_lines import TEXT


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What is to be mounted where, and how."""

    image: ImageRequest
    mountpoint: Path
    root: Path
    driver: str = "auto"  # or "fuse", "erofs"
    driver_reason: str = "asked for"  # why it is FUSE, if it is
    isolate: bool = False  # share windows with mounts of the same repository only
    metrics_address: tuple[str, int] | None = None  # host and port; None: no metrics
    log_format: str = TEXT
    shared: bool = False  # one server for all such mounts of the root
    bound: bool = False  # the server goes when the process that started it does, however that ends

    def in_any_directory(self) -> MountRequest:
        """The same request, understood in whatever directory its reader works."""
        return replace(
            self,
            image=absolute(self.image),
            mountpoint=self.mountpoint.absolute(),
            root=self.root.absolute(),
        )

    def to_json(self) -> dict[str, Any]:
        """With its secrets, for `from_json` in another process; without what is a process's own."""
        return {
            "image": self.image.to_json(secrets=True),
            "mountpoint": str(self.mountpoint),
            "root": str(self.root),
            "isolate": self.isolate,
            "metrics_address": self.metrics_address,
        }


def from_json(document: Mapping[str, Any]) -> MountRequest:
    """The request in *document*, for a shared server.

    Raises:
        KeyError, TypeError, ValueError, ReferenceInvalid: it is none.
    """
    address = document["metrics_address"]
    return MountRequest(
        image=image_request.from_json(document["image"]),
        mountpoint=Path(document["mountpoint"]),
        root=Path(document["root"]),
        driver="fuse",
        isolate=bool(document["isolate"]),
        metrics_address=None if address is None else (str(address[0]), int(address[1])),
        shared=True,
    )
