"""What an image can come from and go to: two protocols, fulfilled by registries, OCI layouts and archives.

One contract suite runs over all of them, so nothing above this package has to know which one it talks to.
What only some of them can do has a protocol of its own and is asked for with `isinstance`; who fulfils one of
these inherits from it, so that a method which is renamed is an error and no ability silently gone. Not here:
following an index to a platform's manifest (`selection`), opening one (`open_source`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, runtime_checkable

from registry_client.digest import Digest
from registry_client.manifest import Descriptor, Index, Manifest


class ImageSource(Protocol):
    """One image somewhere. All methods may be called from any number of threads."""

    def resolve(self) -> Descriptor:
        """What the reference names now (asks again each time).

        Raises:
            NotFound, Unauthorized, Unreachable, ResponseInvalid, LayoutInvalid, ManifestInvalid.
        """

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        """The document *descriptor* promises, verified against its digest and size.

        Raises:
            DigestMismatch, MediaTypeUnknown, ManifestInvalid, and what `resolve` raises.
        """

    def read_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The whole blob in pieces of at most 256 KiB; the digest is checked when the last one was taken.

        Raises (when called or while iterating):
            DigestMismatch: at the end, or at once when the blob is longer than promised.
            and what `resolve` raises.
        """

    def read_at(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        """Exactly *size* bytes of *blob* from byte *offset*, in pieces of at most 256 KiB as they arrive.

        Where they lie is verified, what they are is not: check chunk digests before use. Retries what may
        succeed within the total deadline; an iterator that is dropped early gives up its connection.

        Raises (when called or while iterating):
            RangeInvalid: the blob has no such bytes.
            and what `resolve` raises.
        """

    def close(self) -> None:
        """Give up connections and files. Reads under way may still end well; later ones are errors."""


@runtime_checkable
class Networked(Protocol):
    """A source that is asked over connections."""

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many were opened so far."""

    @abstractmethod
    def warm(self, connections: int) -> None:
        """Have *connections* of them to where reads will go open soon; returns at once.

        Failures to connect are left to the first read.
        """

    @abstractmethod
    def read_once(self, blob: Descriptor, offset: int, size: int) -> Iterator[bytes]:
        """As `ImageSource.read_at`, but for who tries again himself: a request that brings nothing is not
        repeated, so that he learns why at once.
        """


@runtime_checkable
class Mirrored(Protocol):
    """A source that may have the same bytes from several places."""

    @abstractmethod
    def distrust(self, blob: Descriptor, offset: int, size: int) -> None:
        """These bytes, just read, turned out wrong: ask elsewhere next time, if there is an elsewhere."""


@runtime_checkable
class TaggedSource(ImageSource, Protocol):
    """A source that knows its neighbours: the other images of a repository or a layout."""

    @abstractmethod
    def tags(self) -> list[str]:
        """The names in it, in its own order; empty if there is no repository.

        Raises: as `resolve`.
        """

    @abstractmethod
    def resolve_tag(self, tag: str) -> Descriptor:
        """As `resolve`, for another name in it."""


@runtime_checkable
class ReferrerSource(Protocol):
    """A source that knows which manifests refer to another."""

    @abstractmethod
    def referrers(
        self, digest: Digest, artifact_type: str | None = None, *, within: float | None = None
    ) -> list[Descriptor]:
        """The manifests whose subject is *digest*, only those of *artifact_type* if given.

        With *within* all of it takes at most so many seconds, and a refusal is an empty list and not asked
        about again: for those who can do without.

        Raises:
            Unauthorized, Unreachable, ResponseInvalid, ManifestInvalid.
        """


class ImageDestination(Protocol):
    """Somewhere an image can be put. Blobs first, then manifests, then indexes."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there with the promised size; one round trip."""

    def put_blob(self, descriptor: Descriptor, open_blob: Callable[[], BinaryIO]) -> None:
        """Make the blob be there; sends nothing when it already is.

        *open_blob* is called once per attempt and must give the whole content from its start; what it gives
        is closed here. Safe to call from several threads.

        Raises:
            DigestMismatch: the content is not what *descriptor* promises; nothing was kept.
        """

    def put_manifest(self, raw: bytes, media_type: str, *, tag: str | None) -> Descriptor:
        """Store exactly *raw* and return its descriptor; with *tag*, make the tag name it."""

    def close(self) -> None:
        """Finish. An archive appears under its name only now, and only if its manifest was put."""


@runtime_checkable
class BlobMounting(Protocol):
    """A destination that may take a blob from its neighbours without its bytes being sent."""

    @abstractmethod
    def mount_blob(self, descriptor: Descriptor, repository: str) -> bool:
        """Make a blob of another *repository* of this registry be here, too; False if the registry does not.

        Raises:
            Unreachable, ResponseInvalid: the registry does not answer, or not as registries do.
        """
