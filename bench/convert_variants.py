"""The image that is converted, with its layers made otherwise: plain, or as a later version of known content.

Everything goes through the outside writer of layouts (`oci_directory`), as the images themselves do.
"""

from __future__ import annotations

import enum
import io
import tarfile
import tempfile
from pathlib import Path

from bench.oci_directory import write_oci_directory
from builder.layers.layer_stream import plain_pieces
from registry_client.manifest import Manifest
from registry_client.platform import host_platform
from registry_client.source import ImageSource

NAME = "app"
_CREATED = "2023-11-14T22:13:20Z"


class Layers(enum.Enum):
    """How the layers come."""

    AS_THEY_ARE = "as-they-are"
    PLAIN = "plain"  # not compressed
    KNOWN = "known"  # gzip; each has one more entry, while all else is in a chunk dictionary


def write_variant(source: ImageSource, manifest: Manifest, kind: Layers, directory: Path) -> str:
    """Make *directory* a layout with that variant of the image; its reference.

    Raises:
        BuildError, RegistryError: a layer cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="nopull-bench-", dir="/var/tmp") as scratch:
        layers = []
        for number, layer in enumerate(manifest.layers):
            plain = Path(scratch) / f"{number}.tar"
            with plain.open("wb") as tar:
                if kind is Layers.KNOWN:
                    tar.write(_one_more_entry(number))
                for piece in plain_pieces(source.read_blob(layer), layer.digest).pieces:
                    tar.write(piece)
            layers.append(plain)
        write_oci_directory(
            directory,
            name=NAME,
            layers=layers,
            config={},
            architecture=host_platform().architecture,
            created=_CREATED,
            compress=kind is not Layers.PLAIN,
        )
    return f"oci:{directory}:{NAME}"


def _one_more_entry(number: int) -> bytes:
    """Makes it another layer, with another diff id."""
    with io.BytesIO() as whole, tarfile.open(fileobj=whole, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(f"layer-{number}-of-the-next-version"))
        return whole.getvalue()[: tarfile.BLOCKSIZE]
