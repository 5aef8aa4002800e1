"""Whatever images, registries and files call things, no verb prints what moves a cursor or fakes a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import nopull
from tests.builder.layouts import Layout
from tests.builder.tar_bytes import member
from tests.support.bootstrap_edits import Editor
from tests.support.images import image_of
from tests.support.scripted_registry import Reply, Request, ScriptedRegistry
from tests.support.trees import directory, file

EVIL = "e\x1b]0;title\x07\x9b31m\u202e\nnopull: all is well"
RAW = EVIL.encode()[:60]

Shown = Callable[..., str]


@pytest.fixture
def shown(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Shown:
    """Runs `nopull`; what it printed on both streams, each line of which must be fit to be seen."""

    def run(*words: str, code: int | tuple[int, ...]) -> str:
        capfd.readouterr()
        assert nopull.main(words) in (code if isinstance(code, tuple) else (code,))
        captured = capfd.readouterr()
        text = captured.out + captured.err
        assert text
        for line in text.splitlines():
            assert line.isprintable(), line
            assert not line.startswith("nopull: all is well"), text
        return text

    return run


def test_names_in_a_tar(tmp_path: Path, shown: Shown) -> None:
    Layout(tmp_path / "bad").add_image([member(RAW, b"x", kind=b"Z") + bytes(1024)])
    text = shown("convert", f"oci:{tmp_path}/bad:app", f"oci:{tmp_path}/out:app", code=6)
    assert r"e\x1b]0;title" in text
    tar = member(RAW, b"x" * 5000) + bytes(1024)
    Layout(tmp_path / "good").add_image([tar], config={"Cmd": [EVIL], "Env": [f"A={EVIL}"], "User": EVIL})
    image = f"oci:{tmp_path}/out:app"
    shown("convert", "--prefetch", f"/{EVIL}", f"oci:{tmp_path}/good:app", image, code=0)
    root = ("--root", str(tmp_path / "root"))
    for verb, options in (("inspect", ("--files",)), ("inspect", ()), ("explain", ()), ("pull", ())):
        shown(verb, *options, *root, image, code=0)
    shown("diff", "--files", *root, image, image, code=0)
    shown("check", image, "--against", f"oci:{tmp_path}/good:app", code=0)
    Layout(tmp_path / "other").add_image([member(b"another", b"y") + bytes(1024)])
    assert r"e\x1b]0;" in shown("check", image, "--against", f"oci:{tmp_path}/other:app", code=6)


def test_names_in_a_bootstrap(tmp_path: Path, shown: Shown) -> None:
    image = image_of(directory(b"", file(RAW.replace(b"/", b""), b"x" * 9000)))
    editor = Editor(image.bootstrap)
    editor.inode(b"/" + RAW, mode=0o170000)
    (tmp_path / "image.boot").write_bytes(editor.raw)
    for name, content in image.objects.items():
        (tmp_path / name).write_bytes(content)
    reference = f"rafs:{tmp_path}/image.boot"
    assert r"e\x1b]0;title" in shown("check", reference, code=6)
    for verb, options in (("inspect", ()), ("inspect", ("--files",)), ("explain", ()), ("pull", ())):
        shown(verb, *options, "--root", str(tmp_path / "root"), reference, code=(0, 6))


@pytest.mark.parametrize("status", [200, 401, 403, 404, 429, 500])
def test_bodies_and_headers_of_a_registry(tmp_path: Path, shown: Shown, status: int) -> None:
    errors = json.dumps({"errors": [{"code": EVIL, "message": EVIL}]}).encode()
    header = EVIL.replace("\n", " ").encode().decode("latin-1")

    def lie(_: Request, reply: Reply) -> Reply:
        challenge = f'Bearer realm="http://{header}/token",service="{header}"'
        reply = Reply(status, body=errors)
        return reply.having(Content_Type=header, WWW_Authenticate=challenge, Location=header)

    with ScriptedRegistry() as registry:
        registry.lie(lie, "/v2/")
        for verb in ("inspect", "explain"):
            name = f"{registry.host}/app:1"
            shown(verb, "--root", str(tmp_path / "root"), "--creds", "a:b", name, code=(3, 4, 5, 6))
        shown("explain", "--registry", registry.host, code=(0, 3, 4))


def test_what_a_layout_calls_its_images(tmp_path: Path, shown: Shown) -> None:
    layout = Layout(tmp_path / "in")
    layout.add_image([bytes(1024)], tag=EVIL)
    layout.add_image([bytes(1024)], tag="b", document={"os": EVIL})
    shown("inspect", f"oci:{tmp_path}/in:absent", code=5)
    shown("convert", f"oci:{tmp_path}/in:b", f"oci:{tmp_path}/out:b", code=6)
