"""Names of images, as people write them and as they are written back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_client.errors import ReferenceInvalid
from registry_client.reference import Reference, Transport, parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("debian", "docker://docker.io/library/debian:latest", "debian:latest"),
        ("user/repo:1", "docker://docker.io/user/repo:1", "user/repo:1"),
        ("index.docker.io/debian", "docker://docker.io/library/debian:latest", "debian:latest"),
        ("docker://127.0.0.1:5000/a", "docker://127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:latest"),
        ("localhost/a/b:T_-.", "docker://localhost/a/b:T_-.", "localhost/a/b:T_-."),
        ("[::1]:5000/a:b", "docker://[::1]:5000/a:b", "[::1]:5000/a:b"),
        ("GHCR.io/a/b__c", "docker://ghcr.io/a/b__c:latest", "ghcr.io/a/b__c:latest"),
        (f"h.example/a@{DIGEST}", f"docker://h.example/a@{DIGEST}", f"h.example/a@{DIGEST}"),
        (f"h.example/a:t@{DIGEST}", f"docker://h.example/a:t@{DIGEST}", f"h.example/a:t@{DIGEST}"),
        ("oci:/some/dir", "oci:/some/dir", "oci:/some/dir"),
        ("oci:dir:v1", "oci:dir:v1", "oci:dir:v1"),
        ("oci:dir:docker.io/a/b:v1", "oci:dir:docker.io/a/b:v1", "oci:dir:docker.io/a/b:v1"),
        (f"oci:dir@{DIGEST}", f"oci:dir@{DIGEST}", f"oci:dir@{DIGEST}"),
        ("oci-archive:a.tar:v1", "oci-archive:a.tar:v1", "oci-archive:a.tar:v1"),
        ("docker-archive:a.tar:a/b:c", "docker-archive:a.tar:a/b:c", "docker-archive:a.tar:a/b:c"),
        ("rafs:/a:b", "rafs:/a:b", "rafs:/a:b"),
    ],
)
def test_a_name_is_understood_and_written_back(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert str(reference) == full
    assert reference.familiar() == familiar
    assert parse_reference(full) == reference


def test_the_parts_are_where_they_belong() -> None:
    assert parse_reference(f"h.example:1/a/b:t@{DIGEST}") == Reference(
        Transport.DOCKER,
        host="h.example:1",
        repository="a/b",
        tag="t",
        digest=DIGEST,  # type: ignore[arg-type]
    )
    assert parse_reference("oci:x/y:z") == Reference(Transport.OCI, tag="z", path=Path("x/y"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        (" debian", "white space"),
        ("a\nb", "white space"),
        ("./dir", "write oci:./dir"),
        ("/abs", "write oci:/abs"),
        ("https://h.example/a", "https is not a place"),
        ("docker-daemon:a", "docker-daemon is not a place"),
        ("127.0.0.1:5000", "not a repository name"),
        ("localhost:5000", "not a repository name"),
        ("h.example/A", "'A' is not a repository name"),
        ("h.example/a//b", "not a repository name"),
        ("h.example/a:", "not a tag"),
        ("h.example/a:" + "t" * 129, "not a tag"),
        ("h.example/a:..b", "not a tag"),
        ("h.example:port/a", "not a host name"),
        ("h..example/a", "not a host name"),
        ("h.example/a@md5:00", "not a digest"),
        ("h.example/a@sha256:AB", "not a digest"),
        ("h.example/" + "a" * 250, "longer than 255"),
        ("oci:", "lacks the path"),
        ("oci:dir:bad name", "not an image name within it"),
        ("rafs:", "lacks the path"),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(ReferenceInvalid, match=words):
        parse_reference(text)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(alphabet="aA0.:-_/@[]~ \u00e9sha256ocidker", max_size=40))
def test_any_text_is_a_reference_that_survives_or_an_error_of_ours(text: str) -> None:
    try:
        reference = parse_reference(text)
    except ReferenceInvalid:
        return
    assert parse_reference(str(reference)) == reference
    if reference.transport is Transport.DOCKER:
        assert reference.host and reference.repository
        assert reference.tag or reference.digest
        assert parse_reference(reference.familiar()) == reference
