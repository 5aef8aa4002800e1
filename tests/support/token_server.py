"""A token server for Debian's docker-registry: what stands behind the Bearer challenges of real registries.

Gives tokens as distribution's `token.md` says (JSON web tokens, ES256, the key named by `kid`), so that
it is the registry that judges them. Nothing here imports pytest.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

LEEWAY = 60
"""Seconds for which docker-registry accepts a token after it has expired (`registry/auth/token`)."""
_ISSUER = "tests"
_SERVICE = "debian"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a token, and the token it got; "" when it was refused."""

    method: str
    query: dict[str, list[str]]
    account: str
    """Name and password as `name:password`; "" for nobody."""
    token: str


class TokenServer:
    """Use it as a context manager. Its settings may be changed, and `asked` be read, while it runs."""

    def __init__(self, accounts: Mapping[str, tuple[str, frozenset[str]]]) -> None:
        """*accounts*: by name, the password and the actions that are granted (`pull`, `push`).

        The name "" stands for whoever shows no account.
        """
        self.accounts = accounts
        self.life = 300
        """Seconds until the registry refuses a token that is given now, to within one."""
        self.expires_in: int | None = 300
        """What the client is told; None: nothing."""
        self.asked: list[Asked] = []
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._numbers = itertools.count(1)
        self._server = _Server(("127.0.0.1", 0), _Answering)
        self._server.tokens = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def settings(self, directory: Path) -> dict[str, Any]:
        """For `DebianRegistry(settings=…)`: believe this server. Writes its certificate to *directory*."""
        bundle = directory / "tokens.crt"
        bundle.write_bytes(self._certificate().public_bytes(serialization.Encoding.PEM))
        return {
            "auth": {
                "token": {
                    "realm": self.realm,
                    "service": _SERVICE,
                    "issuer": _ISSUER,
                    "rootcertbundle": str(bundle),
                }
            }
        }

    def answer(self, method: str, target: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and document."""
        query = parse_qs(urlsplit(target).query)
        shown = base64.b64decode(authorization.removeprefix("Basic ")).decode() if authorization else ""
        name, _, password = shown.partition(":")
        known = self.accounts.get(name)
        if method != "GET" or known is None or known[0] != password:
            self.asked.append(Asked(method, query, shown, ""))
            return (405 if method != "GET" else 401), {"details": "incorrect username or password"}
        token = self._token(name, query.get("scope", []), known[1])
        self.asked.append(Asked(method, query, shown, token))
        document: dict[str, Any] = {"token": token}
        if self.expires_in is not None:
            document["expires_in"] = self.expires_in
        return 200, document

    def _token(self, name: str, scopes: list[str], granted: frozenset[str]) -> str:
        now = int(time.time())
        access = []
        for scope in scopes:
            kind, repository, actions = scope.split(":")
            allowed = [one for one in actions.split(",") if one in granted]
            access.append({"type": kind, "name": repository, "actions": allowed})
        claims = {
            "iss": _ISSUER,
            "sub": name,
            "aud": _SERVICE,
            "exp": now - LEEWAY + self.life,
            "nbf": now - LEEWAY,
            "iat": now,
            "jti": str(next(self._numbers)),
            "access": access,
        }
        header = {"typ": "JWT", "alg": "ES256", "kid": self._key_name()}
        signed = ".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        der = self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        raw = b"".join(number.to_bytes(32, "big") for number in utils.decode_dss_signature(der))
        return f"{signed}.{_url64(raw)}"

    def _key_name(self) -> str:
        """As the registry names keys (libtrust): 240 bits of a hash, in twelve groups of four letters."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        letters = base64.b32encode(hashlib.sha256(public).digest()[:30]).decode("ascii")
        return ":".join(letters[place : place + 4] for place in range(0, len(letters), 4))

    def _certificate(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=2))
            .sign(self._key, hashes.SHA256())
        )


class _Server(ThreadingHTTPServer):
    tokens: TokenServer
    request_queue_size = 128


class _Answering(BaseHTTPRequestHandler):
    server: _Server

    def __getattr__(self, name: str) -> object:
        """`do_GET`, `do_POST`, … all lead to one place."""
        if name.startswith("do_"):
            return self._reply
        raise AttributeError(name)

    def _reply(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        self.rfile.read(length)
        status, document = self.server.tokens.answer(
            self.command, self.path, self.headers.get("Authorization", "")
        )
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Nothing: `asked` has it."""


def _url64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
