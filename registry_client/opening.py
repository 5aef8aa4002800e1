"""Which class serves which transport; each is imported when it is first asked for."""

from __future__ import annotations

from pathlib import Path

from registry_client.errors import NotFound, ReferenceInvalid
from registry_client.options import RegistryOptions
from registry_client.reference import Reference, Transport
from registry_client.source import ImageDestination, ImageSource


def source_for(reference: Reference, options: RegistryOptions) -> ImageSource:
    """As `registry_client.open_source`."""
    if reference.transport is Transport.DOCKER:
        from registry_client.registries.registry_source import RegistrySource

        return RegistrySource(reference, options)
    if reference.transport is Transport.RAFS:
        raise ReferenceInvalid(f"{reference} is a bare bootstrap, not an image with a manifest")
    path = _existing(reference)
    from registry_client.layouts.region import DirectoryTree, TarTree

    if reference.transport is Transport.DOCKER_ARCHIVE:
        from registry_client.layouts.docker_archive import DockerArchiveSource

        return DockerArchiveSource(reference, TarTree(path))
    from registry_client.layouts.layout import LayoutSource

    tree = DirectoryTree(path) if reference.transport is Transport.OCI else TarTree(path)
    return LayoutSource(reference, tree)


def destination_for(reference: Reference, options: RegistryOptions) -> ImageDestination:
    """As `registry_client.open_destination`."""
    if reference.digest is not None:
        raise ReferenceInvalid(
            f"cannot write to {reference}: a digest says what the content is, name a tag instead"
        )
    if reference.transport is Transport.DOCKER:
        from registry_client.registries.registry_destination import RegistryDestination

        return RegistryDestination(reference, options)
    if reference.transport is Transport.OCI:
        from registry_client.layouts.layout_writer import LayoutDestination

        return LayoutDestination(_path(reference))
    if reference.transport is Transport.OCI_ARCHIVE:
        from registry_client.layouts.archive_writer import ArchiveDestination

        return ArchiveDestination(_path(reference), reference.tag)
    if reference.transport is Transport.DOCKER_ARCHIVE:
        raise ReferenceInvalid(
            f"cannot write to {reference}: the format keeps neither media types nor annotations; "
            "write to oci-archive: instead"
        )
    raise ReferenceInvalid(f"cannot write to {reference}: a bare bootstrap is no place for an image")


def _path(reference: Reference) -> Path:
    assert reference.path is not None, "parse_reference gives every local transport a path"
    return reference.path


def _existing(reference: Reference) -> Path:
    path = _path(reference)
    if not path.exists():
        kind = "directory" if reference.transport is Transport.OCI else "file"
        raise NotFound(f"there is no {kind} {path} to read {reference} from")
    return path
