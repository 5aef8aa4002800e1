"""What `rafs:FILE` names: a bootstrap, or a layer's blob object with one inside, and where the blobs are."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from launch.errors import ImageInvalid
from launch.images.remote import FileBlobs
from rafs.codes import BLOCK
from rafs.errors import FormatInvalid
from rafs.inlined import MAX_BOOTSTRAP, inlined_bootstrap, is_bootstrap, with_blob_id
from rafs.records import TAR_HEADER
from registry_client.errors import NotFound

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class BareImage:
    """A bootstrap and where its blobs are; nothing of it is verified."""

    bootstrap: bytes
    blobs: FileBlobs


def open_bare(path: Path, blob_dir: Path | None) -> BareImage:
    """Read the bootstrap at *path*; its blobs are in *blob_dir*, by default beside it.

    The id of a blob object is its name, as of all blobs, or else its digest.

    Raises:
        NotFound: there is no such file.
        ImageInvalid: too large for a bootstrap.
        rafs.FormatInvalid: a blob object without a bootstrap, or a damaged one.
    """
    directory = (blob_dir or path.parent).absolute()
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(BLOCK)

            def read(offset: int, count: int) -> bytes:
                file.seek(offset)
                return file.read(count)

            # However short: the object of a layer without data has less than the smallest bootstrap.
            if is_bootstrap(start, read(max(0, size - TAR_HEADER.size), TAR_HEADER.size)):
                if size > MAX_BOOTSTRAP:
                    raise ImageInvalid(f"the bootstrap {path} has {size} bytes, at most {MAX_BOOTSTRAP}")
                return BareImage(read(0, size), FileBlobs(directory))

            inlined = inlined_bootstrap(size, read)
            blob_id = path.name
            if not _ID.fullmatch(blob_id):
                file.seek(0)
                blob_id = hashlib.file_digest(file, "sha256").hexdigest()
            bootstrap = with_blob_id(inlined, blob_id)
    except FormatInvalid as error:
        raise FormatInvalid(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise NotFound(f"there is no bootstrap {path}") from error
    except IsADirectoryError as error:
        raise NotFound(f"{path} is a directory, expected a bootstrap file") from error
    return BareImage(bootstrap, FileBlobs(directory, {blob_id: path.absolute()}))
