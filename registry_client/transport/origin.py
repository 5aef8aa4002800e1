"""What a connection, and trust, belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

DEFAULT_PORTS: Mapping[str, int] = {"http": 80, "https": 443}
"""By scheme; no other schemes are spoken here."""


class Origin(NamedTuple):
    """Scheme, host name (IPv6 without brackets) and port."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"
