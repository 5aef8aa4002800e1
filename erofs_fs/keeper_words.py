"""What keeper and filler say to each other, over one SOCK_SEQPACKET connection: a message is a word.

Rare words are JSON objects. The two that every miss needs are records:

    keeper → filler   NEED   the first *end* bytes of a window are waited for
    filler → keeper   HAVE   the first *end* bytes of a window are verified and in its file
    filler → keeper   LOST   a window cannot be filled now, for those who needed it until the time *end*

All can be said again at any time and mean the same, so whoever starts anew says them again. Nobody counts.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

READY: Final = b"ready\n"  # what a keeper writes to its output when it serves
ALREADY: Final = 75  # exit code of a keeper that finds another one (EX_TEMPFAIL)
MESSAGE_BYTES: Final = 64 << 10  # a kernel message buffer takes 208 KiB by default
NEED: Final = 1
HAVE: Final = 2
LOST: Final = 3
ARE_YOU_THERE: Final = b'{"there": true}'  # said by the keeper, and said back by the filler at once
TURN: Final = b'{"turn": true}'  # has the keeper look at what has come, which it notes in the journal

_WORD = struct.Struct("<B7x32sQ")  # kind, window id, end


class Word(NamedTuple):
    """NEED, HAVE or LOST."""

    kind: int
    window_id: str  # 64 hex digits
    end: int  # bytes from the window's beginning; of LOST nanoseconds of the monotonic clock, 0: now


def pack_word(word: Word) -> bytes:
    """*word* as a message."""
    return _WORD.pack(word.kind, bytes.fromhex(word.window_id), word.end)


def parse_word(message: bytes) -> Word | None:
    """The record in *message*; None if it is JSON."""
    if len(message) != _WORD.size or message[0] not in (NEED, HAVE, LOST):
        return None
    kind, raw, end = _WORD.unpack(message)
    return Word(kind, raw.hex(), end)
