"""HTTPS connections; apart, because plain HTTP needs none of it."""

from __future__ import annotations

from urllib3.connection import HTTPSConnection

from registry_client.transport.dialling import Dialler


class SecureConnection(Dialler, HTTPSConnection):
    """HTTPS, to a host or through a proxy's tunnel."""
