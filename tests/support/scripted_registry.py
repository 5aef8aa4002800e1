"""A small registry in this process that tells the truth until it is told to lie.

Honest by default: manifests, blobs with single ranges, uploads, tokens, plain files as a storage host has
them. A test bends single answers with `lie`: another status, other headers, a body cut, stalled, dripped
or reset at byte n. Speaks HTTP/1.1 over real sockets, written by hand, because no library sends wrong
HTTP on request.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final

from tests.support.hand_http import OCTETS, Reply, Request, ranged, read_request, send_reply

__all__ = ["Lie", "Reply", "Request", "ScriptedRegistry"]

_NAMED = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<name>[^/]+)")
_UPLOAD = re.compile(r"/v2/(?P<repository>.+)/blobs/uploads/(?P<session>[^/]*)")
_TLS_HANDSHAKE: Final = b"\x16"  # the first byte of a TLS connection (RFC 8446 §5.1)

Lie = Callable[[Request, Reply], Reply]


@dataclass(slots=True)
class _Rule:
    pattern: re.Pattern[str]
    lie: Lie
    left: int | None


@dataclass(slots=True)
class _Doors:
    """Who is let in. `tokens` None: everybody."""

    tokens: set[str] | None = None
    account: tuple[str, str] | None = None
    expires_in: float | None = None
    realm: str = ""
    basic: bool = False


@dataclass(slots=True)
class ScriptedRegistry:
    """Start it as a context manager. `requests` may be read, and lies told, while it runs."""

    started: ClassVar[int] = 0
    """How many of them were started so far."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    """By `repository:tag` and `repository@digest`."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path, served as a storage host does: an Authorization header is an error."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """What has arrived of uploads that were neither completed nor given up, by session."""
    certificate: tuple[Path, Path] | None = None
    """Certificate and key to speak TLS with (PEM)."""
    clients: Path | None = None
    """Whose certificates are let in (PEM); None: nobody is asked for one."""
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    _rules: list[_Rule] = field(default_factory=list)
    _doors: _Doors = field(default_factory=_Doors)
    _sessions: int = 0
    _tokens_given: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)  # protects all lists and counts above
    _over: threading.Event = field(default_factory=threading.Event)
    _listener: socket.socket | None = None
    _open: set[socket.socket] = field(default_factory=set)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def host(self) -> str:
        assert self._listener is not None, "not started"
        address, port = self._listener.getsockname()
        return f"{address}:{port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.host}"

    def add_blob(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return digest

    def add_manifest(self, repository: str, tag: str, content: bytes, media_type: str) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        self.manifests[f"{repository}:{tag}"] = self.manifests[f"{repository}@{digest}"] = (
            content,
            media_type,
        )
        return digest

    def lie(self, lie: Lie, on: str, times: int | None = None) -> None:
        """Bend the answers to requests whose `METHOD path` matches *on*, the next *times* (None: all).

        Of several lies that fit one request the oldest is told.
        """
        with self._lock:
            self._rules.append(_Rule(re.compile(on), lie, times))

    def honest(self) -> None:
        """Forget all lies."""
        with self._lock:
            self._rules.clear()

    def require_token(
        self, *, account: tuple[str, str] | None = None, expires_in: float | None = None, realm: str = ""
    ) -> None:
        """Want a Bearer token from `/token` here (or *realm*), given to *account* only, or to anybody."""
        self._doors = _Doors(set(), account, expires_in, realm)

    def require_account(self, name: str, password: str) -> None:
        """Want Basic authentication."""
        self._doors = _Doors(set(), (name, password), basic=True)

    def accept_token(self, token: str) -> None:
        """Let in whoever shows *token*, which was given elsewhere."""
        with self._lock:
            if self._doors.tokens is not None:
                self._doors.tokens.add(token)

    def revoke_tokens(self) -> None:
        with self._lock:
            if self._doors.tokens is not None:
                self._doors.tokens.clear()

    def seen(self, pattern: str) -> list[Request]:
        """The requests so far whose `METHOD path` matches."""
        with self._lock:
            return [one for one in self.requests if re.search(pattern, f"{one.method} {one.path}")]

    def __enter__(self) -> ScriptedRegistry:
        ScriptedRegistry.started += 1
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse and cut all connections; nothing happens when it does not run."""
        if self._over.is_set():
            return
        self._over.set()
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            still_open = list(self._open)
        for one in still_open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join(5)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        assert self._listener is not None
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            if self.certificate is not None:
                connection = self._encrypt(connection)
            elif connection.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
                # A line might never end in a hello; real servers see at once that it is no request.
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                return
            with connection, connection.makefile("rb") as incoming:
                while not self._over.is_set():
                    request = read_request(incoming.readline, incoming.read)
                    if request is None or not self._answer(connection, request):
                        return
        except OSError:
            return
        finally:
            with self._lock:
                self._open.discard(connection)

    def _encrypt(self, connection: socket.socket) -> socket.socket:
        assert self.certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate)
        if self.clients is not None:
            context.load_verify_locations(self.clients)
            context.verify_mode = ssl.CERT_REQUIRED
        connection.settimeout(5)
        with self._lock:
            self._open.discard(connection)
        try:
            wrapped = context.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            raise
        with self._lock:
            self._open.add(wrapped)
        return wrapped

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        """Send the reply; False when the connection is to be closed."""
        reply = self._honest_reply(request)
        with self._lock:
            self.requests.append(request)
            rule = next((one for one in self._rules if one.left != 0 and _fits(one, request)), None)
            if rule is not None and rule.left is not None:
                rule.left -= 1
        if rule is not None:
            reply = rule.lie(request, reply)
        return send_reply(connection, request, reply, self._over)

    def _honest_reply(self, request: Request) -> Reply:
        if request.path == "/token":
            return self._token(request)
        if request.path in self.files:
            if "authorization" in request.headers:
                return Reply(400, body=b"<Error>Only one auth mechanism allowed</Error>")
            return ranged(request, self.files[request.path], OCTETS)
        refused = self._refuse_stranger(request)
        if refused is not None:
            return refused
        upload = _UPLOAD.fullmatch(request.path)
        if upload:
            return self._upload(request, upload["repository"], upload["session"])
        named = _NAMED.fullmatch(request.path)
        if named is None:
            return Reply(404, body=b"no such page")
        if named["kind"] == "blobs":
            return self._blob(request, named["name"])
        return self._manifest(request, named["repository"], named["name"])

    def _blob(self, request: Request, digest: str) -> Reply:
        content = self.blobs.get(digest)
        return _missing("BLOB_UNKNOWN") if content is None else ranged(request, content, OCTETS)

    def _manifest(self, request: Request, repository: str, name: str) -> Reply:
        if request.method == "PUT":
            media_type = request.headers.get("content-type", "")
            digest = self.add_manifest(repository, name, request.body, media_type)
            return Reply(201, (("Docker-Content-Digest", digest),))
        found = self.manifests.get(f"{repository}{'@' if ':' in name else ':'}{name}")
        if found is None:
            return _missing("MANIFEST_UNKNOWN")
        content, media_type = found
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        return Reply(200, (("Content-Type", media_type), ("Docker-Content-Digest", digest)), content)

    def _upload(self, request: Request, repository: str, session: str) -> Reply:
        """As distribution does it, but strict about the order of chunks."""
        if request.method == "POST":
            mounted = request.query.get("mount", [""])[0]
            if mounted in self.blobs:
                return Reply(201, (("Docker-Content-Digest", mounted),))
            with self._lock:
                self._sessions += 1
                number = self._sessions
                self.uploads[str(number)] = b""
            return Reply(202, (("Location", f"/v2/{repository}/blobs/uploads/{number}?_state=a%2Fb%3D"),))
        if session not in self.uploads and request.method != "PUT":
            return _missing("BLOB_UPLOAD_UNKNOWN")
        if request.method == "DELETE":
            del self.uploads[session]
            return Reply(204)
        if request.method == "PATCH":
            self.uploads[session] = self.uploads[session] + request.body
        if request.method in ("PATCH", "GET"):
            return self._progress(request, repository, session)
        digest = request.query.get("digest", [""])[0]
        content = self.uploads.get(session, b"") + request.body
        if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
            return Reply(
                400, body=b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}'
            )
        self.blobs[digest] = content
        self.uploads.pop(session, None)
        return Reply(201, (("Docker-Content-Digest", digest),))

    def _progress(self, request: Request, repository: str, session: str) -> Reply:
        """Where an upload stands; a chunk that does not begin there is taken back."""
        content = self.uploads[session]
        begin = request.headers.get("content-range", "").partition("-")[0]
        status = 202 if request.method == "PATCH" else 204
        if begin and int(begin) != len(content) - len(request.body):
            content = self.uploads[session] = content[: len(content) - len(request.body)]
            status = 416
        place = f"/v2/{repository}/blobs/uploads/{session}?_state={len(content)}"
        return Reply(status, (("Location", place), ("Range", f"0-{max(len(content) - 1, 0)}")))

    def _refuse_stranger(self, request: Request) -> Reply | None:
        doors = self._doors
        if doors.tokens is None:
            return None
        shown = request.headers.get("authorization", "")
        if doors.basic:
            if doors.account is not None and shown == _basic(*doors.account):
                return None
            return Reply(
                401, (("WWW-Authenticate", 'Basic realm="test"'),), b'{"errors":[{"code":"UNAUTHORIZED"}]}'
            )
        if shown.startswith("Bearer ") and shown[7:] in doors.tokens:
            return None
        scope = _NAMED.fullmatch(request.path)
        asked = f',scope="repository:{scope["repository"]}:pull"' if scope else ""
        challenge = f'Bearer realm="{doors.realm or self.url + "/token"}",service="scripted"{asked}'
        return Reply(401, (("WWW-Authenticate", challenge),), b'{"errors":[{"code":"UNAUTHORIZED"}]}')

    def _token(self, request: Request) -> Reply:
        doors = self._doors
        if request.method == "POST":
            return Reply(405, body=b"")
        if doors.account is not None and request.headers.get("authorization") != _basic(*doors.account):
            return Reply(401, body=b'{"details":"incorrect username or password"}')
        with self._lock:
            self._tokens_given += 1
            token = f"token-{self._tokens_given}"
            if doors.tokens is not None:
                doors.tokens.add(token)
        document: dict[str, object] = {"token": token}
        if doors.expires_in is not None:
            document["expires_in"] = doors.expires_in
        return Reply(200, (("Content-Type", "application/json"),), json.dumps(document).encode())


def _fits(rule: _Rule, request: Request) -> bool:
    return rule.pattern.search(f"{request.method} {request.path}") is not None


def _missing(code: str) -> Reply:
    document = {"errors": [{"code": code, "message": code.replace("_", " ").lower()}]}
    return Reply(404, (("Content-Type", "application/json"),), json.dumps(document).encode())


def _basic(name: str, password: str) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode("ascii")
