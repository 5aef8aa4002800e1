"""Who a container's command runs as: what `User` means, by the image's own account files.

Pure: takes the bytes of /etc/passwd and /etc/group, not an image. Never asks the host's account database – a
name means what it means *inside* the image. The rules are those docker and runc share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from launch.containers.run_errors import UserNotFound

# runc's bounds; (uid_t)-1 and everything above 2^31-1 are refused there as well.
MAX_ID = (1 << 31) - 1
_DIGITS = 20


@dataclass(frozen=True, slots=True)
class ContainerUser:
    """Numeric identity of a process; `additional_gids` always begins with `gid`."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


def resolve_user(wanted: str, passwd: bytes, group: bytes) -> ContainerUser:
    """The identity that *wanted* (`""`, `USER`, `UID`, `USER:GROUP`, in any mix of names and numbers) names.

    A number needs no entry; a name does. An explicit group replaces the user's own and all additional ones.
    Lines of the account files that make no sense are skipped, as every reader of these files does.

    Raises:
        UserNotFound: a name has no entry, or a number is out of range.
    """
    user_text, _, group_text = wanted.partition(":")
    account = _find_account(user_text or "0", passwd)
    if account is not None:
        name, uid, gid, home = account
    else:
        name, uid, gid, home = None, _number(user_text or "0", "user", "/etc/passwd"), 0, "/"
    if group_text:
        gid = _find_gid(group_text, group)
        return ContainerUser(uid, gid, (gid,), home)
    others = {other for other, members in _memberships(group) if name is not None and name in members}
    return ContainerUser(uid, gid, (gid, *sorted(others - {gid})), home)


def _find_account(wanted: str, passwd: bytes) -> tuple[bytes, int, int, str] | None:
    for fields in _records(passwd, 6):
        uid, gid = _digits(fields[2]), _digits(fields[3])
        if uid is None or gid is None:
            continue
        if _value(wanted) == uid if wanted.isdecimal() else os.fsencode(wanted) == fields[0]:
            return fields[0], uid, gid, fields[5].decode("utf-8", "replace") or "/"
    return None


def _find_gid(wanted: str, group: bytes) -> int:
    if wanted.isdecimal():
        return _number(wanted, "group", "/etc/group")
    for fields in _records(group, 3):
        gid = _digits(fields[2])
        if gid is not None and fields[0] == os.fsencode(wanted):
            return gid
    return _number(wanted, "group", "/etc/group")


def _memberships(group: bytes) -> Iterator[tuple[int, list[bytes]]]:
    for fields in _records(group, 4):
        gid = _digits(fields[2])
        if gid is not None:
            yield gid, fields[3].split(b",")


def _records(text: bytes, least: int) -> Iterator[list[bytes]]:
    for line in text.splitlines():
        fields = line.strip().split(b":")
        if len(fields) >= least and fields[0] and not fields[0].startswith(b"#"):
            yield fields


def _digits(field: bytes) -> int | None:
    return number if field.isdigit() and (number := _value(field)) <= MAX_ID else None


def _value(digits: str | bytes) -> int:
    """The number; of one with more digits than any id, none that is one: Python refuses some thousands."""
    return int(digits) if len(digits) <= _DIGITS else MAX_ID + 1


def _number(text: str, kind: str, file: str) -> int:
    if not text.isdecimal():
        raise UserNotFound(f"cannot run as {kind} {text!r}: not in the image's {file}; a number always works")
    number = _value(text)
    if number > MAX_ID:
        raise UserNotFound(f"cannot run as {kind} {text[:_DIGITS]}: numbers go from 0 to {MAX_ID}")
    return number
