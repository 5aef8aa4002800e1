"""What an image is called: transports, hosts, repositories, tags, digests, and paths on this host.

Pure text work: nothing here looks at a disk or a network. Names follow skopeo (`docker://`, `oci:`,
`oci-archive:`, `docker-archive:`) and docker (bare names: `debian` is `docker.io/library/debian:latest`);
`rafs:` is ours.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from pathlib import Path

from registry_client.digest import Digest, parse_digest, shorten
from registry_client.errors import ReferenceInvalid

DEFAULT_TAG = "latest"
DOCKER_HUB = "docker.io"
HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
"""What Docker Hub is called in image names and in credential files."""
# distribution-spec, "Pulling manifests"; 255 is what many registries store for host and name together.
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_NAME_LIMIT = 255
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
# image-spec annotations.md, `org.opencontainers.image.ref.name`
_LAYOUT_WORD = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_LAYOUT_NAME = re.compile(rf"{_LAYOUT_WORD}(?:/{_LAYOUT_WORD})*")
_FOREIGN = ("http://", "https://", "docker-daemon:", "containers-storage:")


class Transport(enum.Enum):
    DOCKER = "docker"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    RAFS = "rafs"


_TRANSPORTS = frozenset(transport.value for transport in Transport)


@dataclass(frozen=True, slots=True)
class Reference:
    """One image's name. `parse_reference(str(reference)) == reference`.

    DOCKER has host and repository and a tag or a digest or both; the local transports have a path, perhaps a
    tag (for `docker-archive:` a `name:tag`) or a digest; RAFS has only a path.
    """

    transport: Transport
    host: str = ""
    repository: str = ""
    tag: str | None = None
    digest: Digest | None = None
    path: Path | None = None

    def __str__(self) -> str:
        if self.transport is Transport.DOCKER:
            return "docker://" + self._with_suffix(f"{self.host}/{self.repository}")
        return f"{self.transport.value}:" + self._with_suffix(str(self.path))

    def familiar(self) -> str:
        """As people write it: without `docker://`, and without what docker fills in by itself."""
        if self.transport is not Transport.DOCKER:
            return str(self)
        name = f"{self.host}/{self.repository}"
        # An image called `oci` must not read like a directory called `latest`.
        if self.host == DOCKER_HUB and self.repository.removeprefix("library/") not in _TRANSPORTS:
            name = self.repository.removeprefix("library/")
        return self._with_suffix(name)

    def _with_suffix(self, name: str) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return name + tag + digest


def parse_reference(text: str) -> Reference:
    """*text* as a reference; a docker name without tag and digest gets the tag `latest`.

    Raises:
        ReferenceInvalid: with what is wrong and what was expected.
    """
    if not text or text != text.strip() or any(ord(letter) < 32 for letter in text):
        raise ReferenceInvalid(f"{shorten(text)!r} is not an image name: empty, or with stray white space")
    for transport in (Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE, Transport.OCI, Transport.RAFS):
        prefix = f"{transport.value}:"
        if text.startswith(prefix):
            return _parse_local(transport, text, text[len(prefix) :])
    if text.startswith("docker://"):
        return _parse_docker(text, text[len("docker://") :])
    if text.startswith(("/", "./", "../", "~")):
        raise ReferenceInvalid(f"{shorten(text)!r} looks like a path: write oci:{text} or rafs:{text}")
    foreign = next((prefix for prefix in _FOREIGN if text.startswith(prefix)), None)
    if foreign:
        raise ReferenceInvalid(
            f"{shorten(text)!r}: {foreign.rstrip(':/')} is not a place images are read from; "
            "use docker://, oci:, oci-archive:, docker-archive: or rafs:"
        )
    return _parse_docker(text, text)


def _parse_docker(text: str, name: str) -> Reference:
    digest: Digest | None = None
    if "@" in name:
        name, _, digest_text = name.partition("@")
        digest = parse_digest(digest_text)
    tag: str | None = None
    last = name.rpartition("/")[2]
    if ":" in last and ("/" in name or not _looks_like_bare_host(name)):
        name, _, tag = name.rpartition(":")
        if not _TAG.fullmatch(tag):
            raise ReferenceInvalid(
                f"{shorten(text)!r}: {tag!r} is not a tag, which has up to 128 letters, digits, '.', '_', '-'"
            )
    host, slash, repository = name.partition("/")
    if not slash or not _is_host(host):
        host, repository = DOCKER_HUB, name
    if not _HOST.fullmatch(host):
        raise ReferenceInvalid(f"{shorten(text)!r}: {host!r} is not a host name with an optional port")
    host = host.lower()
    if host in HUB_NAMES:
        host = DOCKER_HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository):
        raise ReferenceInvalid(
            f"{shorten(text)!r}: {shorten(repository)!r} is not a repository name; "
            "it has lower-case letters and digits, separated by '.', '_', '-' and '/'"
        )
    if len(host) + 1 + len(repository) > _NAME_LIMIT:
        raise ReferenceInvalid(f"{shorten(text)!r}: the name is longer than {_NAME_LIMIT} characters")
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    return Reference(Transport.DOCKER, host=host, repository=repository, tag=tag, digest=digest)


def _is_host(component: str) -> bool:
    return "." in component or ":" in component or component == "localhost" or component != component.lower()


def _looks_like_bare_host(name: str) -> bool:
    """`127.0.0.1:5000` alone is a forgotten repository, not the repository `127.0.0.1` with tag 5000."""
    host, _, port = name.rpartition(":")
    return port.isdigit() and ("." in host or host == "localhost" or host.startswith("["))


def _parse_local(transport: Transport, text: str, rest: str) -> Reference:
    tag: str | None = None
    digest: Digest | None = None
    if transport is not Transport.RAFS:
        rest, at, digest_text = rest.partition("@sha256:")
        if at:
            digest = parse_digest("sha256:" + digest_text)
        # Like skopeo: the path ends at the first colon, since names may contain more of them.
        rest, colon, name = rest.partition(":")
        if colon:
            if not _LAYOUT_NAME.fullmatch(name):
                raise ReferenceInvalid(f"{shorten(text)!r}: {shorten(name)!r} is not an image name within it")
            tag = name
    if not rest:
        raise ReferenceInvalid(f"{shorten(text)!r} lacks the path after {transport.value}:")
    return Reference(transport, tag=tag, digest=digest, path=Path(rest))
