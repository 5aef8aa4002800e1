"""Text of others as people may be shown it; here because every package that prints may import this one."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""*text* on one line that moves no cursor: what is not printable as `\n`, `\x1b`, `\u202e`; a byte of a
    path that is no text as `\xff`.

    For people only: a backslash that was there stays as it is, so this cannot be undone.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(one: str) -> str:
    if "\udc80" <= one <= "\udcff":  # as `os.fsdecode` has it
        return f"\\x{ord(one) - 0xDC00:02x}"
    return one.encode("unicode_escape").decode("ascii")
