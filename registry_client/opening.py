"""Which class serves which transport; each is imported when it is first asked for."""

from __future__ import annotations

from registry_client.errors import ReferenceInvalid
from registry_client.options import RegistryOptions
from registry_client.reference import Reference
from registry_client.source import ImageDestination, ImageSource


def source_for(reference: Reference, options: RegistryOptions) -> ImageSource:
    """As `registry_client.open_source`."""
    raise ReferenceInvalid(f"{reference} is a bare bootstrap, not an image")


def destination_for(reference: Reference, options: RegistryOptions) -> ImageDestination:
    """As `registry_client.open_destination`."""
    raise ReferenceInvalid(f"nothing can be written to {reference}")
