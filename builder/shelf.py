"""Where images that were converted earlier are looked for: the repository that the new one goes to.

What fits is told by a note in each manifest, so looking costs the list of tags and a few manifests. It is an
economy: what goes wrong here only means that nothing is found. Where nobody answers at all it is an error,
better now than after the conversion.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from builder.discovery import find_marked, is_marked
from builder.errors import SourceUnsupported
from builder.image_documents import is_converted
from builder.known_image import KnownImage
from builder.layer_record import ANNOTATION, chain_ids, noted
from registry_client.errors import RegistryError, Unreachable
from registry_client.manifest import Manifest
from registry_client.media_type import MANIFESTS
from registry_client.platform import Platform
from registry_client.source import ImageSource, TaggedSource

_log = logging.getLogger(__name__)

_TAGS_LIMIT: Final = 32  # looked at; the newest versions share most
_IMAGES_LIMIT: Final = 64
_PLATFORMS_LIMIT: Final = 16  # of one index
_AT_ONCE: Final = 8


class Shelf:
    """The converted images of one repository; asked once or more, by one thread."""

    def __init__(self, source: TaggedSource, tag: str | None) -> None:
        """*tag* is looked at first: most conversions replace their own last result."""
        self.source = source
        self._tag = tag
        self._manifests: list[Manifest] | None = None

    def best(self, diff_ids: Sequence[str], way: str) -> tuple[KnownImage, int] | None:
        """The image with the most lowest layers in common, made the same *way*, and how many these are.

        Raises:
            Unreachable: nobody answers.
        """
        try:
            if self._manifests is None:
                self._manifests = list(self._look())
            wanted = chain_ids(diff_ids)
            ranked = sorted(self._manifests, key=lambda one: -_shared(one, wanted, way))
            for manifest in ranked[:2]:
                if not _shared(manifest, wanted, way):
                    return None
                try:
                    image = KnownImage(self.source, manifest)
                except SourceUnsupported as error:
                    _log.warning("%s", error)
                    continue
                count = image.shared_layers(diff_ids)
                if count:
                    return image, count
        except Unreachable:
            raise
        except RegistryError as error:
            _log.info("nothing is shared with earlier images: %s", error)
        return None

    def _look(self) -> Iterator[Manifest]:
        tags = sorted(set(self.source.tags()) - {self._tag}, key=version_order, reverse=True)
        if self._tag is not None:
            tags.insert(0, self._tag)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="shelf") as pool:
            found = list(pool.map(self._named, tags[:_TAGS_LIMIT]))
        unique = {manifest.digest: manifest for manifests in found for manifest in manifests}
        yield from list(unique.values())[:_IMAGES_LIMIT]

    def _named(self, tag: str) -> list[Manifest]:
        try:
            document = self.source.manifest(self.source.resolve_tag(tag))
            if isinstance(document, Manifest):
                return [document]
            entries = [entry for entry in document.manifests if entry.media_type in MANIFESTS]
            converted = [entry for entry in entries if is_marked(entry)] or entries
            documents = map(self.source.manifest, converted[:_PLATFORMS_LIMIT])
            return [one for one in documents if isinstance(one, Manifest)]
        except Unreachable:
            raise
        except RegistryError as error:
            _log.info("tag %s is not looked at: %s", tag, error)
            return []


def open_dictionary(source: ImageSource, platform: Platform) -> KnownImage:
    """The converted image that *source* names, for *platform*.

    Raises:
        SourceUnsupported: an ordinary image, or not one to share chunks with.
        RegistryError: it cannot be had.
    """
    manifest = find_marked(source, platform)
    if not is_converted(manifest):
        raise SourceUnsupported(
            f"image {manifest.digest} is an ordinary one; a chunk dictionary is a converted image"
        )
    return KnownImage(source, manifest)


def version_order(tag: str) -> list[tuple[int, str]]:
    """What to sort tags by, so that 1.10 comes behind 1.9."""
    found = []
    for word in re.split(r"([0-9]+)", tag):
        # By length first, as numbers: others' tags may have more digits than Python turns into one.
        digits = word.lstrip("0")
        found.append((len(digits), digits) if word.isascii() and word.isdigit() else (-1, word))
    return found


def _shared(manifest: Manifest, wanted: Sequence[str], way: str) -> int:
    made, chain = noted(manifest.annotations.get(ANNOTATION, ""))
    if made != way or not is_converted(manifest):
        return 0
    # Each id stands for all layers up to it, so the last common one decides.
    return max((place for place, one in enumerate(wanted, 1) if chain[place - 1 : place] == [one]), default=0)
