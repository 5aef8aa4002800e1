"""Ask what an image's name means, before anything else is even loaded.

The question travels while Python loads the rest of what a mount needs; this module imports only what asking
takes. How long an answer is waited for depends on what is known here already.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from launch.later import Later
from registry_client import open_source, warm
from registry_client.manifest import Descriptor
from registry_client.options import RegistryOptions
from registry_client.platform import Platform, host_platform
from registry_client.reference import Reference
from registry_client.source import ImageSource, Networked

# Opened while the name is resolved: the first reads of a container miss in several windows at once.
CONNECTIONS = 6
# How long a tag is asked about when the image it last named is here and could be used at once: until there is
# a connection (a round trip; without network, as at boot, there never is one), and until there is an answer.
REACH_SECONDS = 0.5
KNOWN_TAG_SECONDS = 5.0


class Question:
    """What does *reference* mean now? Under way in a thread, on a source that reads the image afterwards.

    The source is whoever's takes it over. A digest of an image that is here is not asked about before
    `answer` is called.
    """

    def __init__(
        self, reference: Reference, options: RegistryOptions, root: Path, platform: Platform | None = None
    ) -> None:
        """Raises: as `registry_client.open_source`."""
        if reference.path is not None:
            reference = replace(reference, path=reference.path.absolute())
        self.reference = reference  # local paths made absolute
        self.wanted = platform  # by name
        self.platform = platform or host_platform()
        self.source: ImageSource = open_source(reference, options)
        warm(self.source, CONNECTIONS)
        self._since = time.monotonic()
        known = reference.digest is not None and _is_known(root, reference, self.platform)
        self._answer = None if known else Later(self.source.resolve)

    def answer(self) -> Descriptor:
        """What it means. Raises: as `ImageSource.resolve`."""
        if self._answer is None:
            return self.source.resolve()
        return self._answer.result()

    def answer_soon(self) -> Descriptor | None:
        """As `answer`; None if nobody is there, or nobody answers within some seconds."""
        if self._answer is None:
            return self.source.resolve()
        reached = self._answer.wait(self._since + REACH_SECONDS - time.monotonic())
        if not reached and isinstance(self.source, Networked) and not self.source.connections:
            return None
        if not self._answer.wait(self._since + KNOWN_TAG_SECONDS - time.monotonic()):
            return None
        return self._answer.result()


def _is_known(root: Path, reference: Reference, platform: Platform) -> bool:
    from launch.images import image_cache

    return image_cache.is_known(root, reference, platform)
