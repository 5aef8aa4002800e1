"""What a 401 asks for: `WWW-Authenticate` headers as challenges (RFC 9110, section 11.2 and 5.6.4); and the
answer to the simplest of them.

Splitting at commas is wrong here: a scope holds them (`repository:a/b:pull,push`), and so may any quoted
string.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)(?:"|$)|([^\s,"]*))', re.DOTALL)
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|$)")
_FILLING = re.compile(r"[\s,]+")
_LIMIT = 16 * 1024  # characters of all headers together; real ones have some hundred


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate. Scheme and parameter names are lower case, values as they were meant."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of all *headers*, in order. Never raises: what makes no sense is skipped."""
    text = ", ".join(headers)[:_LIMIT]
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while position < len(text):
        filling = _FILLING.match(text, position)
        if filling:
            position = filling.end()
            continue
        parameter = _PARAMETER.match(text, position)
        scheme = _SCHEME.match(text, position)
        if parameter:
            if found:
                quoted, bare = parameter[2], parameter[3]
                value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
                found[-1][1].setdefault(parameter[1].lower(), value)
            position = parameter.end()
        elif scheme:
            found.append((scheme[1].lower(), {}))
            position = scheme.end()
        else:
            position += 1
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def preferred(challenges: Iterable[Challenge]) -> Challenge | None:
    """The one to answer: Bearer with a realm before Basic; None when there is neither."""
    second = None
    for challenge in challenges:
        if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
            return challenge
        if challenge.scheme == "basic" and second is None:
            second = challenge
    return second


def basic(username: str, password: str) -> str:
    """The value of an Authorization header, for a Basic challenge."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode("ascii")
