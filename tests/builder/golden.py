"""Prints the digests that a fixed image is converted to, one a line: the same on every machine.

Run by the tests in this process, and in others with other versions of libraries:

    python -m tests.builder.golden
"""

from __future__ import annotations

import gzip
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from builder.convert_options import ConvertOptions
from tests.builder.layouts import Layout, convert_layout
from tests.support.trees import directory, file, hardlink, layer_tar, opaque, symlink, tree, whiteout

# A change of these is a change of every image: converted anew, it shares nothing with what was published.
GOLDEN = {
    "sha256:07fc9676a390e6b2a4ccc79c6f884eed2792ace8e238f997778293eb99b39fa8": ConvertOptions(),
    "sha256:75661ce209fe4ee17ea9337e33d5def9c98d31b11d647bd3cf627cbf449d3bd4": ConvertOptions(
        compression_level=3
    ),
    "sha256:13d1918ac15163cf29526100f22bb07821f3c27a2984f2cc922ce719f0d7be3a": ConvertOptions(
        compression_level=9, batch_size=4 << 20
    ),
    "sha256:31524a6b69651b038bc6e320eaa409d8c8cfaca587be4ee97f01f9e4df472a47": ConvertOptions(
        chunk_size=64 << 10, batch_size=256 << 10, prefetch=(b"/usr/lib/words-7",)
    ),
}


def digests(jobs: int) -> Iterator[str]:
    """What is found now for the options of `GOLDEN`, in its order."""
    with tempfile.TemporaryDirectory() as scratch:
        # The digests include that of the source, so how it is packed must stay as it was.
        packed = partial(gzip.compress, compresslevel=6, mtime=0)
        Layout(Path(scratch, "in")).add_image(layers(), config={"Cmd": ["/bin/sh"]}, store=packed)
        for number, options in enumerate(GOLDEN.values()):
            chosen = replace(options, jobs=jobs)
            yield convert_layout(Path(scratch, "in"), Path(scratch, f"out{number}"), chosen).digest


@cache
def layers() -> tuple[bytes, ...]:
    """Files that compress as programs and texts do, so that matches of every kind are looked for."""
    chance = random.Random(20)
    words = [chance.randbytes(chance.randrange(2, 12)) for _ in range(3000)]
    weights = [1 / (1 + number) for number in range(len(words))]

    def some(size: int) -> bytes:
        return b"".join(chance.choices(words, weights, k=size // 6))

    many = [file(b"words-%d" % number, some(20_000)) for number in range(60)]
    lower = tree(
        directory(b"usr", directory(b"lib", *many), directory(b"bin", file(b"program", some(900_000)))),
        directory(b"bin", file(b"sh", some(90_000), mode=0o755), symlink(b"ash", b"sh")),
        file(b"noise", chance.randbytes(400_000)),
        file(b"zeros", bytes(700_000)),
    )
    upper = tree(
        directory(b"usr", directory(b"bin", opaque(), file(b"program", some(300_000)))),
        hardlink(b"shell", b"/bin/sh"),
        whiteout(b"noise"),
    )
    return layer_tar([lower]), layer_tar([upper])


if __name__ == "__main__":
    sys.stdout.writelines(f"{digest}\n" for digest in digests(2))
