"""The forty situations a registry client has to stand, and which tests show that it does, on which server.

Run as a program it writes the table `docs/registry-cases.md`; a test holds it up to date.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "docs" / "registry-cases.md"
_Test = TypeVar("_Test", bound=Callable[..., object])

TITLES = {
    1: "Tag to platform manifest",
    2: "Pull by digest",
    3: "A tag is resolved whatever HEAD answers",
    4: "Range read through a 307",
    5: "Monolithic push, any Location",
    6: "One-request push answered 202",
    7: "Chunked push",
    8: "Mount from another repository",
    9: "Blob that exists",
    10: "Referrers, native and by tag",
    11: "Tag list in pages",
    12: "Kinds of content survive",
    13: "Bearer challenge in all spellings",
    14: "Token without expires_in",
    15: "Token expires under 64 readers",
    16: "POST not supported, password wrong",
    17: "Hostile realm",
    18: "Odd signals of expiry",
    19: "Credential sources",
    20: "Rotated credentials",
    21: "Signed URL expired",
    22: "Redirect to a host that refuses credentials",
    23: "Redirect chains, loops, downgrades",
    24: "URL valid for GET only",
    25: "URL byte for byte",
    26: "Whole blob for a range",
    27: "Part marked 200",
    28: "Wrong Content-Range",
    29: "Short, cut and long bodies",
    30: "416, empty reads, reads across the end",
    31: "Content-Encoding",
    32: "Concurrent and merged reads",
    33: "No connection, no name, no trust",
    34: "Stale keep-alive",
    35: "Drip-feed and silence",
    36: "429 and 503 with Retry-After",
    37: "Mirror first, registry second",
    38: "Peer-to-peer proxy",
    39: "Descriptors that lie",
    40: "Months",
}


class Server(enum.Enum):
    """What stood at the other end."""

    DEBIAN = "Debian's docker-registry"
    SCRIPTED = "scripted"
    BOTH = "both"
    NONE = "no server needed"


@dataclass(frozen=True, slots=True)
class Shown:
    """One test that shows one case."""

    case: int
    server: Server
    test: str


def case(*numbers: int, on: Server = Server.SCRIPTED) -> Callable[[_Test], _Test]:
    """Say that a test shows these cases, against this kind of server."""
    unknown = set(numbers) - set(TITLES)
    if unknown:
        raise ValueError(f"there are no cases {unknown}")

    def mark(test: _Test) -> _Test:
        test.shows = (numbers, on)  # type: ignore[attr-defined]
        return test

    return mark


def shown_cases() -> Iterator[Shown]:
    """Every case of every test of this folder, in the order of the files."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"{__package__}.{file.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_") and getattr(test, "__module__", "") == module.__name__:
                numbers, on = getattr(test, "shows", ((), Server.NONE))
                for number in numbers:
                    yield Shown(number, on, f"{file.stem}::{name}")


def table() -> str:
    """The text of `docs/registry-cases.md`."""
    by_case: dict[int, list[Shown]] = {number: [] for number in TITLES}
    for one in shown_cases():
        by_case[one.case].append(one)
    lines = [
        "# Forty situations, the tests that show them, and the server that each ran against",
        "",
        "Written by `python -m tests.registry_client.cases`. A test fails when this is out of date, when a",
        "case has no test, or when a test used another server than it says. *Debian* is Debian's",
        "`docker-registry`; *scripted* the server of `tests/support/scripted_registry.py`, which lies on",
        "command where no honest server would.",
        "",
        "| | situation | server | test, below `tests/registry_client/` |",
        "|---|---|---|---|",
    ]
    short = {Server.DEBIAN: "Debian", Server.SCRIPTED: "scripted", Server.BOTH: "both", Server.NONE: "–"}
    for number, title in TITLES.items():
        for place, one in enumerate(by_case[number]):
            first = f"{number} | {title}" if place == 0 else " | "
            lines.append(f"| {first} | {short[one.server]} | `{one.test}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    # Imported again under its own name: tests carry marks of that module's classes.
    TABLE.write_text(importlib.import_module("tests.registry_client.cases").table(), encoding="utf-8")
