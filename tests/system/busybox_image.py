"""A small ordinary OCI image that can run: busybox, a few users, and files that are no programs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "ls", "cat", "echo", "id", "pwd", "sleep", "true", "touch", "env", "kill", "rm", "tty")


def layer() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, mode: int, content: bytes | None = None, link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.mode, member.mtime, member.size, member.linkname = mode, 1, len(content or b""), link
            member.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(content or b""))

        for name in ("bin", "etc", "home", "home/app", "opt"):
            add(name, 0o755)
        add("tmp", 0o1777)
        add("bin/busybox", 0o755, BUSYBOX.read_bytes())
        for applet in APPLETS:
            add(f"bin/{applet}", 0o777, link="busybox")
        add("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
        add("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n")
        add("opt/plain", 0o644, b"not a program\n")
        add("opt/no-interpreter", 0o755, b"#!/absent/interpreter\n")
    return out.getvalue()


def put(layout: Path, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


def write_layout(layout: Path, config: dict[str, Any], content: bytes | None = None) -> None:
    """An ordinary OCI image of busybox, or of the tar *content*, in an `oci:` directory, with tag `v1`."""
    (layout / "blobs/sha256").mkdir(parents=True)
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    raw = content or layer()
    prefix = "application/vnd.oci.image"
    layers = [{"mediaType": f"{prefix}.layer.v1.tar+gzip", **put(layout, gzip.compress(raw, 1, mtime=0))}]
    diff_ids = [f"sha256:{hashlib.sha256(raw).hexdigest()}"]
    document = {
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    config_blob = {"mediaType": f"{prefix}.config.v1+json", **put(layout, json.dumps(document).encode())}
    kind = f"{prefix}.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config_blob, "layers": layers}
    entry = {"mediaType": kind, **put(layout, json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
