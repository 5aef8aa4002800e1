"""Platforms: how they are written, which one this machine is, and which entry of an index serves one.

Spellings are normalised as containerd does (`platforms/database.go`), so that arm64 and arm64/v8 are one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from registry_client.digest import shorten
from registry_client.errors import NotFound, ReferenceInvalid
from registry_client.media_type import INDEXES, MANIFESTS

_ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
# What an architecture without an operating system may be: a word that is neither is a mistake.
_ALONE = frozenset(
    (
        *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle"),
        *("ppc64", "ppc64le", "riscv64", "s390x", "wasm"),
    )
)
_SYSTEMS: Mapping[str, str] = {"macos": "darwin"}
# What a machine of the first variant also runs, best first; none of these lists holds the bare architecture,
# which is always tried last.
_RUNS_ALSO: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("arm", "v8"): ("v7", "v6", "v5"),
    ("arm", "v7"): ("v6", "v5"),
    ("arm", "v6"): ("v5",),
    ("amd64", "v4"): ("v3", "v2", ""),
    ("amd64", "v3"): ("v2", ""),
    ("amd64", "v2"): ("",),
}
_ATTESTATION = "vnd.docker.reference.type"


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        variant = f"/{self.variant}" if self.variant else ""
        return f"{self.os}/{self.architecture}{variant}"


class Entry(Protocol):
    """What counts here of an entry of an index (`manifest.Descriptor`)."""

    @property
    def media_type(self) -> str: ...
    @property
    def platform(self) -> Platform | None: ...
    @property
    def annotations(self) -> Mapping[str, str]: ...


_Entry = TypeVar("_Entry", bound=Entry)


def parse_platform(text: str) -> Platform:
    """`os/architecture` or `os/architecture/variant`, or a known architecture alone (then Linux); normalised.

    Raises:
        ReferenceInvalid: anything else.
    """
    parts = text.strip().split("/")
    alone = parts[0].lower() if len(parts) == 1 else ""
    known = not alone or alone in _ALONE or alone in _ARCHITECTURES
    if not 1 <= len(parts) <= 3 or not all(parts) or not known:
        raise ReferenceInvalid(
            f"{shorten(text)!r} is not a platform: expected for example linux/amd64 or linux/arm64/v8"
        )
    if len(parts) == 1:
        parts.insert(0, "linux")
    system, architecture, *rest = parts
    return normalise(Platform(system, architecture, rest[0] if rest else ""))


def normalise(platform: Platform) -> Platform:
    """The one spelling of *platform*: lower case, amd64/v1 and arm64/v8 lose their variant, arm gets one."""
    system = platform.os.lower()
    architecture = platform.architecture.lower()
    variant = platform.variant.lower()
    implied = ""
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant.isdigit():
        variant = f"v{variant}"
    if architecture == "arm":
        variant = variant or "v7"
    elif (architecture, variant) in {("arm64", "v8"), ("arm64", "v8.0"), ("amd64", "v1")}:
        variant = ""
    return replace(platform, os=_SYSTEMS.get(system, system), architecture=architecture, variant=variant)


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname()
    return normalise(Platform(machine.sysname, machine.machine))


def serves(made: Platform, wanted: Platform) -> bool:
    """Whether an image that says of itself it is *made* for one platform is one for *wanted*.

    What it leaves out fits: many say no variant, or nothing.
    """
    found, asked = normalise(made), normalise(wanted)
    variants = (asked.variant, *_RUNS_ALSO.get((asked.architecture, asked.variant), ()))
    return (
        (not made.os or found.os == asked.os)
        and (not made.architecture or found.architecture == asked.architecture)
        and (not made.variant or found.variant in variants)
    )


def is_attestation(descriptor: Entry) -> bool:
    """Whether an index entry is BuildKit's statement about an image instead of an image."""
    platform = descriptor.platform
    unknown = platform is not None and (platform.os, platform.architecture) == ("unknown", "unknown")
    return unknown or _ATTESTATION in descriptor.annotations


def select(manifests: Sequence[_Entry], platform: Platform) -> _Entry:
    """The first entry of an index that serves *platform*.

    An entry of exactly that variant goes before one of an older variant that the same machine runs; an entry
    that does not say its platform is taken when no other fits. Attestations and unknown media types never
    match.

    Raises:
        NotFound: nothing fits; the message lists what there is.
    """
    wanted = normalise(platform)
    images = [
        entry for entry in manifests if entry.media_type in INDEXES | MANIFESTS and not is_attestation(entry)
    ]
    for variant in (wanted.variant, *_RUNS_ALSO.get((wanted.architecture, wanted.variant), ())):
        acceptable = replace(wanted, variant=variant)
        for entry in images:
            if entry.platform is not None and _serves(normalise(entry.platform), acceptable):
                return entry
    for entry in images:
        if entry.platform is None:
            return entry
    offered = ", ".join(dict.fromkeys(str(entry.platform) for entry in images)) or "no image at all"
    raise NotFound(f"the image is not available for {wanted}; its index offers {offered}")


def _serves(offered: Platform, wanted: Platform) -> bool:
    return (
        offered.os == wanted.os
        and offered.architecture == wanted.architecture
        and offered.variant == wanted.variant
        and (not wanted.os_version or offered.os_version == wanted.os_version)
        and set(wanted.os_features) <= set(offered.os_features)
    )
