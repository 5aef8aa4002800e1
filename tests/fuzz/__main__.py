"""`python -m tests.fuzz TARGET [SECONDS]`: fuzz one parser; fails, and keeps the input, at the first fault.

Needs atheris. What was found to reach new code is kept in .cache/fuzz, beside the seeds of the fixtures.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import suppress
from pathlib import Path

CORPUS = Path(__file__).parents[2] / ".cache" / "fuzz"
MAX_BYTES = 64 << 10
MAX_SECONDS = 10  # for one input
MEMORY_MIB = 1024


def main(name: str, seconds: str) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris  # type: ignore[import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["rafs", "builder", "registry_client", "launch"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)

    def one(raw: bytes) -> None:
        with suppress(*target.errors):
            target.run(raw)

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={MAX_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-artifact_prefix={CORPUS}/{name}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, os.fspath(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        from tests.fuzz.targets import TARGETS

        print(*TARGETS, sep="\n")
    else:
        main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60")
