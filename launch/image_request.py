"""Which image, from where and how: what has to be known to open it again, as JSON, elsewhere or later.

Without the account of `--creds` it may lie on a disk; with it, it stays in memory and on sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from registry_client.options import RegistryOptions, variables_here
from registry_client.platform import Platform, parse_platform
from registry_client.reference import Reference, parse_reference

_PATHS = frozenset({"authfile"})
_SECRETS = frozenset({"creds", "environment"})


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
        options = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self.options).items()
            if secrets or name not in _SECRETS
        }
        return {
            "reference": str(self.reference),
            "options": options,
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
    known = {one.name for one in fields(RegistryOptions)}
    options: dict[str, Any] = {
        name: Path(value) if name in _PATHS and value is not None else value
        for name, value in document["options"].items()
        if name in known
    }
    platform, blob_dir = document.get("platform"), document.get("blob_dir")
    return ImageRequest(
        reference=parse_reference(document["reference"]),
        options=RegistryOptions(**options),
        platform=None if platform is None else parse_platform(platform),
        blob_dir=None if blob_dir is None else Path(blob_dir),
        background=bool(document.get("background", True)),
        cache_size=document.get("cache_size"),
    )


def absolute(request: ImageRequest) -> ImageRequest:
    """*request* as it is understood in any directory and environment."""
    reference, options = request.reference, request.options
    if reference.path is not None:
        reference = replace(reference, path=reference.path.absolute())
    paths = {name: value.absolute() for name in _PATHS if (value := getattr(options, name)) is not None}
    blob_dir = None if request.blob_dir is None else request.blob_dir.absolute()
    environment = variables_here() if options.environment is None else options.environment
    options = replace(options, **paths, environment=environment)
    return replace(request, reference=reference, options=options, blob_dir=blob_dir)
