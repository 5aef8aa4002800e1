"""Random reads over random blobs, through stores in every state, equal the source."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from chunk_store import ChunkStore
from tests.chunk_store.blobs import Blob, ScriptedSource, blob_of, chunk_of
from tests.chunk_store.conftest import QUICK

chunk_sizes = st.one_of(st.integers(1, 9000), st.integers(1, 1 << 18))
blobs = st.lists(st.lists(chunk_sizes, min_size=1, max_size=5), min_size=1, max_size=6)


def build(shape: list[list[int]], seed: int) -> Blob:
    return blob_of(
        [[chunk_of((seed, u, c), size) for c, size in enumerate(sizes)] for u, sizes in enumerate(shape)]
    )


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(blobs, min_size=1, max_size=3),
    seed=st.integers(0, 1 << 30),
    background=st.booleans(),
    piece=st.sampled_from([1000, 4096, 65536]),
)
def test_random_reads_equal_the_source(
    shapes: list[list[list[int]]], seed: int, background: bool, piece: int
) -> None:
    random = Random(seed)
    built = [build(shape, seed + number // 2) for number, shape in enumerate(shapes)]
    source = ScriptedSource(*built)
    source.piece = piece
    with tempfile.TemporaryDirectory() as root:
        leave_files(Path(root), built, random)
        with ChunkStore(Path(root), limits=QUICK, boot_id="same") as store:
            attachment = store.attach([blob.meta for blob in built], source, background=background)
            for _ in range(8):
                number = random.randrange(len(built))
                plain = built[number].plain
                begin = random.randrange(len(plain))
                end = random.randint(begin, min(len(plain), begin + 300_000))
                assert attachment.read(number, begin, end - begin) == plain[begin:end]
            attachment.start_background()
            assert attachment.wait_complete(20)
            for blob in built:
                for window in blob.windows:
                    path = Path(root) / "windows" / window.id[:2] / window.id
                    assert path.read_bytes() == blob.plain[window.start : window.start + window.length]


def leave_files(root: Path, built: list[Blob], random: Random) -> None:
    """Put right, wrong and partial files of windows into a store that this boot has used already."""
    (root / "windows.lock").write_text("same")
    for blob in built:
        for window in blob.windows:
            right = blob.plain[window.start : window.start + window.length]
            content = random.choice(
                [
                    None,
                    b"",
                    right,
                    right[: random.randrange(window.length)],
                    random.randbytes(random.randrange(window.length)),
                    right + b"x",
                    random.randbytes(window.length + 1),
                ]
            )
            if content is not None:
                path = root / "windows" / window.id[:2] / window.id
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
