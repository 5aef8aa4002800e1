"""What an image's config says of how it is run: its running part, read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.errors import ConfigInvalid

_NO_TEXT = re.compile("[\\0\ud800-\udfff]")  # JSON may say either


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The `config` object of an OCI image config, as far as running needs it."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""


def load_config(raw: bytes) -> dict[str, Any]:
    """An image's config document.

    Raises:
        ConfigInvalid: it is not a JSON object.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"cannot use the image's config: it is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise ConfigInvalid("cannot use the image's config: it is not a JSON object")
    return document


def parse_config(document: Mapping[str, Any]) -> ImageConfig:
    """The running part of an image config document (the whole JSON object, with `config` inside).

    Raises:
        ConfigInvalid: a field is not of the type the OCI image specification gives it, or has text that
            neither paths nor arguments can have.
    """
    section = document.get("config")
    if section is None:
        return ImageConfig()
    if not isinstance(section, Mapping):
        raise _invalid("config", section, "an object")
    return ImageConfig(
        entrypoint=_strings(section, "Entrypoint"),
        command=_strings(section, "Cmd"),
        env=_strings(section, "Env"),
        working_dir=_string(section, "WorkingDir"),
        user=_string(section, "User"),
    )


def _strings(section: Mapping[str, Any], field: str) -> tuple[str, ...]:
    found = section.get(field)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise _invalid(field, found, "a list of strings")
    if not all(map(_is_plain, found)):
        raise _invalid(field, found, "text without NUL and surrogates")
    return tuple(found)


def _string(section: Mapping[str, Any], field: str) -> str:
    found = section.get(field)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise _invalid(field, found, "a string")
    if not _is_plain(found):
        raise _invalid(field, found, "text without NUL and surrogates")
    return found


def _is_plain(text: str) -> bool:
    return not _NO_TEXT.search(text)


def _invalid(field: str, found: object, expected: str) -> ConfigInvalid:
    shown = repr(found) if len(repr(found)) <= 60 else f"{repr(found)[:60]}…"
    return ConfigInvalid(f"cannot use the image's config: `{field}` is {shown}, expected {expected}")
