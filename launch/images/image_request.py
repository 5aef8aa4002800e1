"""Which image, from where and how: what has to be known to open it again, as JSON, elsewhere or later.

Without the account of `--creds` it may lie on a disk; with it, it stays in memory and on sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from registry_client.errors import ReferenceInvalid
from registry_client.options import RegistryOptions
from registry_client.platform import Platform, parse_platform
from registry_client.reference import Reference, Transport, parse_reference


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Arguments of `images.open_image`, and how it is filled."""

    reference: Reference
    options: RegistryOptions
    platform: Platform | None = None  # None: this machine's
    blob_dir: Path | None = None  # `rafs:` only
    background: bool = True  # fetch the rest of it, behind what is read
    cache_size: int | None = None  # bytes that windows of its store may occupy; None: what there is

    def to_json(self, *, secrets: bool) -> dict[str, Any]:
        """For `from_json`; *secrets*: with the account, which must not be written to a disk."""
        return {
            "reference": str(self.reference),
            "options": self.options.to_json(secrets=secrets),
            "platform": None if self.platform is None else str(self.platform),
            "blob_dir": None if self.blob_dir is None else str(self.blob_dir),
            "background": self.background,
            "cache_size": self.cache_size,
        }


def from_json(document: Mapping[str, Any]) -> ImageRequest:
    """The request in *document*; options that are not known here are left out.

    Raises:
        KeyError, TypeError, ValueError, ReferenceInvalid: it is none.
    """
    platform, blob_dir = document.get("platform"), document.get("blob_dir")
    return ImageRequest(
        reference=parse_reference(document["reference"]),
        options=RegistryOptions.from_json(document["options"]),
        platform=None if platform is None else parse_platform(platform),
        blob_dir=None if blob_dir is None else Path(blob_dir),
        background=bool(document.get("background", True)),
        cache_size=document.get("cache_size"),
    )


def absolute(request: ImageRequest) -> ImageRequest:
    """*request* as it is understood in any directory and environment."""
    reference = request.reference
    if reference.path is not None:
        reference = replace(reference, path=reference.path.absolute())
    blob_dir = None if request.blob_dir is None else request.blob_dir.absolute()
    return replace(request, reference=reference, options=request.options.absolute(), blob_dir=blob_dir)


def refuse_blob_dir(reference: Reference, blob_dir: Path | None) -> None:
    """Return if *blob_dir* was not given, or means something for *reference*.

    Raises:
        ReferenceInvalid: the image has its blobs.
    """
    if blob_dir is not None and reference.transport is not Transport.RAFS:
        raise ReferenceInvalid(f"{reference.familiar()} has its blobs: --blob-dir is for rafs:BOOTSTRAP")
