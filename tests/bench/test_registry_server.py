"""The registry child listens when it says so, logs what it sent, and is gone when stopped."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from bench.registry_server import Access, RegistryServer, parse_access_log, sum_traffic

LOG = """\
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/a/manifests/v1 HTTP/1.1" 200 700 "" "x"
noise
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "HEAD /v2/a/blobs/sha256:00 HTTP/1.1" 200 9000 "" "x"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "GET /v2/a/blobs/sha256:00 HTTP/1.1" 206 4096 "" "x"
127.0.0.1 - - [01/Jan/2026:00:00:00 +0000] "PUT /v2/a/manifests/v1 HTTP/1.1" 201 0 "" "x"
"""


def test_access_log_lines_become_requests_and_other_lines_are_passed_over() -> None:
    assert parse_access_log(LOG) == [
        Access("GET", "/v2/a/manifests/v1", 200, 700),
        Access("HEAD", "/v2/a/blobs/sha256:00", 200, 0),
        Access("GET", "/v2/a/blobs/sha256:00", 206, 4096),
        Access("PUT", "/v2/a/manifests/v1", 201, 0),
    ]


def test_traffic_counts_bodies_that_were_sent_and_not_announced_lengths() -> None:
    traffic = sum_traffic(parse_access_log(LOG))
    assert (traffic.requests, traffic.blob_requests, traffic.bytes_sent) == (4, 1, 4796)


@pytest.mark.system
def test_registry_answers_when_constructed_and_is_gone_after_stop(tmp_path: Path) -> None:
    with RegistryServer(tmp_path / "registry") as server:
        mark = server.mark()
        with urllib.request.urlopen(f"http://{server.host}/v2/", timeout=10) as answer:
            assert answer.status == 200
        assert [access.path for access in server.accesses(mark)] == ["/v2/"]
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.system
def test_two_registries_run_side_by_side(tmp_path: Path) -> None:
    with RegistryServer(tmp_path / "one") as one, RegistryServer(tmp_path / "two") as two:
        assert one.host != two.host
