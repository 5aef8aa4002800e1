"""What can go wrong between us and an image's source, one class per decision the caller has to make.

Messages are one sentence for people: what was being done, with what, what was found, what to do. They
never contain a password, a token or the query of a signed URL. Nothing here knows HTTP; the modules that do
translate foreign exceptions into these and keep the cause.
"""

from __future__ import annotations

from pathlib import Path

from registry_client.sizes import FULL_ERRNOS, room_left


class RegistryError(Exception):
    """Root of everything this package raises on purpose.

    `temporary` says whether asking again later may succeed; `retry_after` is the wait in seconds that the
    other side asked for, if it did. `blame` is what a proxy said about whose fault it was, if it did.
    """

    temporary: bool = False
    retry_after: float | None = None
    blame: str = ""

    def __init__(
        self, message: str, *, temporary: bool | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        if temporary is not None:
            self.temporary = temporary
        if retry_after is not None:
            self.retry_after = retry_after


class ReferenceInvalid(RegistryError):
    """The text is not a reference, or names something that cannot be used this way."""


class Unreachable(RegistryError):
    """No usable answer within the deadline: name, connection, TLS, time-outs, overload (429, 5xx)."""

    temporary = True


class Unauthorized(RegistryError):
    """401 or 403 after everything known about us was tried."""


class NotFound(RegistryError):
    """The manifest, tag, blob, repository, file or platform is not there."""


class ResponseInvalid(RegistryError):
    """The server broke the protocol: status, range, length, encoding, redirect."""


class DigestMismatch(RegistryError):
    """Bytes do not have the digest or the size they were promised with."""


class MediaTypeUnknown(RegistryError):
    """Not a kind of document this client knows."""


class ManifestInvalid(RegistryError):
    """A manifest or index whose bytes are as promised but whose content breaks the specification."""


class RangeInvalid(RegistryError):
    """Bytes were asked for that the blob does not have."""


class LayoutInvalid(RegistryError):
    """An `oci:` directory or an archive on disk is broken, or of an unknown version."""


class LayoutUnusable(LayoutInvalid):
    """A layout or archive cannot be written where it was to be; no image is to blame."""


class LayoutForbidden(LayoutInvalid):
    """This user may not read or write a layout or archive."""


class LayoutFull(LayoutInvalid):
    """There is no room for what was to be written to a layout or archive."""


def layout_error(doing: str, error: OSError) -> LayoutInvalid:
    """*error* of the system at a layout or an archive; *doing* says at what: `cannot read …`."""
    said = f"{doing}: {(error.strerror or str(error)).lower()}"
    if isinstance(error, PermissionError):
        return LayoutForbidden(f"{said}; run it as a user who may, or name another place")
    return LayoutInvalid(said)


def write_error(doing: str, error: OSError, directory: Path) -> LayoutInvalid:
    """As `layout_error`, of what was to be written into *directory*."""
    if error.errno in FULL_ERRNOS:
        said = f"{doing}: {(error.strerror or str(error)).lower()}{room_left(directory)}"
        return LayoutFull(f"{said}; free some there, or name another place")
    found = layout_error(doing, error)
    return found if type(found) is not LayoutInvalid else LayoutUnusable(f"{found}; name another place")
