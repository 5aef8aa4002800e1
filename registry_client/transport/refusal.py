"""What a status that is not success means, as one of our errors: a table, and the registry's own words.

Error bodies come as the specification's JSON, as HTML of a front end, as XML of a storage service, or not
at all.
"""

from __future__ import annotations

import json

from registry_client.digest import shorten
from registry_client.errors import NotFound, RegistryError, ResponseInvalid, Unauthorized, Unreachable
from registry_client.transport.answer import Answer
from registry_client.transport.retrying import parse_retry_after

_TEMPORARY = frozenset({408, 425, 429})
_FINAL_SERVER_ERRORS = frozenset({501, 505})


def refusal(answer: Answer, who: str, purpose: str, account: str = "") -> RegistryError:
    """The error for *answer* of *who* (`registry host`) to a request meant to *purpose*. Ends the answer.

    *account* names whom we said to be, for people; "": nobody.
    """
    return refusal_of(answer.status, answer.headers.get("Retry-After"), answer.text(), who, purpose, account)


def refusal_of(
    status: int, retry_after: str | None, text: str, who: str, purpose: str, account: str = ""
) -> RegistryError:
    """As `refusal`, from the parts of an answer: its status, its Retry-After header and its body *text*."""
    words = _words(text)
    said = f"{status}{f' ({words})' if words else ''}"
    if status in (401, 403):
        advice = "log in with docker login, or give --creds"
        if account:
            advice = "log in again" if status == 401 else "has it the right to do that?"
        return Unauthorized(f"{who} does not let {account or 'us'} {purpose}: {said}; {advice}")
    if status == 404:
        return NotFound(f"{who} cannot {purpose}: {said}; is the name right?")
    if status in _TEMPORARY or (status >= 500 and status not in _FINAL_SERVER_ERRORS):
        wait = parse_retry_after(retry_after)
        advice = f"it asks to wait {wait:.0f} s" if wait else "try again later"
        return Unreachable(f"{who} cannot {purpose} at the moment: {said}; {advice}", retry_after=wait)
    if status == 400 and "HTTPS server" in text:
        return Unreachable(
            f"{who} cannot {purpose}: it speaks HTTPS only; leave out --plain-http", temporary=False
        )
    return ResponseInvalid(f"{who} answered {said} when asked to {purpose}")


def _words(text: str) -> str:
    """What a person can use of an error's body, on one line."""
    text = text.strip()
    if not text or text.startswith("<"):
        return ""
    try:
        first = json.loads(text)["errors"][0]
        text = ": ".join(str(first[key]) for key in ("code", "message") if first.get(key))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        text = text.partition("\n")[0]
    return shorten("".join(one if one.isprintable() else " " for one in text), 200)
