"""How to talk to registries: the choices a user can make, frozen; what they mean is decided elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

CREDS_VARIABLE = "NOPULL_CREDS"
"""The environment variable that gives an account as `--creds` does."""

PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")
_HOSTS_VARIABLE = "NOPULL_HOSTS_DIR"
_HOSTS_DIRECTORY = "/etc/containerd/certs.d"
_ACCOUNT_VARIABLES = ("HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME")
VARIABLES = (*PROXY_VARIABLES, "NO_PROXY", "no_proxy", _HOSTS_VARIABLE, *_ACCOUNT_VARIABLES)
"""What the environment may say about the way to a registry; `--creds` is a choice of its own."""

# Fields of the class below.
_PATHS = frozenset({"authfile"})
_SECRETS = frozenset({"creds", "environment"})


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """Defaults are right for most: credentials from the docker configuration, HTTPS except on loopback."""

    plain_http: bool | None = None
    """True: HTTP to every registry; False: HTTPS to every registry; None: HTTP to loopback addresses only."""
    tls_verify: bool = True
    """False accepts any certificate. It never turns HTTPS into HTTP."""
    authfile: Path | None = None
    """A docker `config.json` or podman `auth.json` to read instead of the usual ones."""
    creds: str | None = field(default=None, repr=False)
    """`user:password`; goes before every other source of credentials."""
    environment: Mapping[str, str] | None = field(default=None, repr=False, hash=False)
    """`VARIABLES` as whoever asks has them, where another process does what he asks for; may hold secrets.
    None: this process's."""
    timeout: float = 60.0
    """Total deadline of one call in seconds: all attempts, tokens, redirects and waits included. Reading or
    sending a whole blob renews it with every MiB that went through."""
    connect_timeout: float = 10.0
    """Seconds for one TCP and TLS connection to come up."""
    stall_timeout: float = 20.0
    """Seconds without a byte after which a connection is given up and another one tried."""
    connections: int = 16
    """Most connections open to one host at a time; how many of them pay is learnt. Further reads wait."""

    @property
    def variables(self) -> Mapping[str, str]:
        """What holds as the environment."""
        return os.environ if self.environment is None else self.environment

    @property
    def mirrors_directory(self) -> str:
        """Where mirrors and authorities are configured as containerd does, in a directory for each host: it
        need not exist."""
        return self.variables.get(_HOSTS_VARIABLE) or _HOSTS_DIRECTORY

    def absolute(self) -> RegistryOptions:
        """The same options as another process understands them, in whatever directory and environment."""
        paths = {name: value.absolute() for name in _PATHS if (value := getattr(self, name)) is not None}
        environment = _variables_here() if self.environment is None else self.environment
        return replace(self, **paths, environment=environment)

    def to_json(self, *, secrets: bool) -> dict[str, Any]:
        """For `from_json`; without *secrets* nothing is in it that must not be written to a disk."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if secrets or name not in _SECRETS
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RegistryOptions:
        """The options in *document*, perhaps of another version: what is not known here is left out.

        Raises:
            TypeError: a path is none.
        """
        known = {one.name for one in fields(cls)}
        given: dict[str, Any] = {
            name: Path(value) if name in _PATHS and value is not None else value
            for name, value in document.items()
            if name in known
        }
        return cls(**given)


def _variables_here() -> dict[str, str]:
    """`VARIABLES` of this process, for `RegistryOptions.environment`."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}
