"""Open an image while the rest of what a mount needs is still being loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launch.images.image_request import ImageRequest
from launch.later import Later
from registry_client.reference import Transport

if TYPE_CHECKING:
    from launch.images.lazy_image import LazyImage


def open_early(request: ImageRequest, root: Path) -> Later[LazyImage]:
    """The image, soon; its documents are kept below the state root *root*.

    What its name means is asked before this returns, and the answer travels while Python loads.

    Raises:
        as `registry_client.open_source`; the result raises as `images.open_image`.
    """
    question = None
    if request.reference.transport is not Transport.RAFS:
        from launch.images.asking import Question

        question = Question(request.reference, request.options, root, request.platform)

    def opened() -> LazyImage:
        from launch.images.lazy_image import open_request

        return open_request(request, root, question)

    return Later(opened)
