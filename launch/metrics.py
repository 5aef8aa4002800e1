"""A mount's counters for Prometheus, at an address of the user's choice.

prometheus-client is loaded only here, only when asked for: it costs more than half of a mount's own start.
What is served is read from the store at each scrape; only the times of reads are collected beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from chunk_store.latencies import BOUNDS, Histogram
from chunk_store.priority import CLASSES
from erofs_fs.pids import resident_bytes
from fuse_fs.protocol import word_for
from launch.errors import MetricsMissing, MetricsUnservable
from rafs.directory import name_text

if TYPE_CHECKING:
    from chunk_store import Attachment
    from fuse_fs.tree import BlobBytes
    from launch.mounts import MountRecord


class TimedBytes:
    """What a tree reads from, with each read's time observed. As thread-safe as what it wraps."""

    def __init__(self, wrapped: BlobBytes, observe: Callable[[float, bool], None]) -> None:
        """*observe* is told the seconds and whether it succeeded."""
        self._wrapped = wrapped
        self._observe = observe

    def read(self, blob_index: int, offset: int, size: int, until: float | None = None) -> bytes:
        """As `chunk_store.Attachment.read`."""
        began, good = time.monotonic(), False
        try:
            content = self._wrapped.read(blob_index, offset, size, until)
            good = True
        finally:
            self._observe(time.monotonic() - began, good)
        return content

    def read_into(self, into: memoryview, blob_index: int, offset: int, *, from_disk: bool) -> bool:
        """As `chunk_store.Attachment.read_into`; not observed where it leaves the bytes to `read`."""
        began = time.monotonic()
        filled = self._wrapped.read_into(into, blob_index, offset, from_disk=from_disk)
        if filled:
            self._observe(time.monotonic() - began, True)
        return filled

    def is_local(self, blob_index: int, offset: int, size: int) -> bool:
        """As `chunk_store.Attachment.is_local`; not observed."""
        return self._wrapped.is_local(blob_index, offset, size)


class MetricsServer:
    """Listens at once, so that a bad address is known before the mount is; serves from `publish` on."""

    def __init__(self, address: tuple[str, int]) -> None:
        """
        Raises:
            MetricsMissing: prometheus-client is not installed.
            MetricsUnservable: nobody can listen at *address*.
        """
        try:
            import prometheus_client
        except ImportError as error:
            raise MetricsMissing(
                f"--metrics-address needs prometheus-client ({error}): pip install 'nopull[metrics]'"
            ) from error
        self._registry = prometheus_client.CollectorRegistry()
        self._reads = prometheus_client.Histogram(
            "nopull_read_seconds",
            "Time of reads that reached the server; the kernel's page cache answers the others.",
            buckets=BOUNDS,
            registry=self._registry,
        )
        self._failed = prometheus_client.Counter(
            "nopull_read_errors", "Reads that were answered with an error.", registry=self._registry
        )
        host, port = address
        try:
            self._server, self._thread = prometheus_client.start_http_server(
                port, addr=host, registry=self._registry
            )
        except OSError as error:
            raise MetricsUnservable(f"cannot serve metrics at {_at(host, port)}: {error.strerror}") from error
        self.address = _at(host, self._server.server_port)

    def observe(self, seconds: float, good: bool) -> None:
        """A read took *seconds*."""
        self._reads.observe(seconds)
        if not good:
            self._failed.inc()

    def publish(self, record: MountRecord, attachment: Attachment, asked: Mapping[int, int]) -> None:
        """Serve what these say at each scrape; *asked*: see `fuse_fs.session.Session`."""
        self._registry.register(_Collector(record, attachment, asked))

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join(1.0)


class _Collector:
    def __init__(self, record: MountRecord, attachment: Attachment, asked: Mapping[int, int]) -> None:
        self._record = record
        self._attachment = attachment
        self._asked = asked

    def describe(self) -> list[Any]:
        """Nothing: else registering would collect."""
        return []

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        record, now, latencies = self._record, self._attachment.progress_now(), self._attachment.latencies()
        mounted = GaugeMetricFamily(
            "nopull_mount", "1 while the mount is served.", labels=("mountpoint", "image", "digest", "driver")
        )
        # Paths are bytes, the exposition format is UTF-8.
        place, image = (name_text(os.fsencode(path)) for path in (record.mountpoint, record.reference))
        mounted.add_metric((place, image, record.digest, record.driver), 1)
        yield mounted
        for name, attribute, what in (
            ("requests", "requests", "Ranges asked for, by reason."),
            ("received_bytes", "compressed_bytes", "Compressed bytes received, by reason."),
            ("fetched_windows", "windows", "Windows completed, by reason."),
        ):
            family = CounterMetricFamily(f"nopull_{name}", what, labels=("class",))
            for reason in CLASSES:
                family.add_metric((reason,), getattr(getattr(now, reason), attribute))
            yield family
        fills = HistogramMetricFamily(
            "nopull_fill_seconds",
            "Time of a window from being asked for to being complete, by reason.",
            labels=("class",),
        )
        for reason in CLASSES:
            one: Histogram = getattr(latencies, reason)
            fills.add_metric((reason,), _buckets(one), one.seconds)
        yield fills
        yield HistogramMetricFamily(
            "nopull_reader_wait_seconds",
            "Time a reader waited for bytes of one window that were absent.",
            buckets=_buckets(latencies.waits),
            sum_value=latencies.waits.seconds,
        )
        requests = CounterMetricFamily(
            "nopull_fuse_requests", "What the kernel asked the server for.", labels=("request",)
        )
        for request, count in sorted(self._asked.items()):
            requests.add_metric((word_for(request),), count)
        yield requests
        for name, value, what in (
            ("windows", now.windows_total, "Windows of the image."),
            ("windows_present", now.windows_present, "Windows that are local."),
            ("windows_touched", now.touched_windows, "Windows readers asked for."),
            ("windows_awaited", now.windows_awaited, "Windows a reader waits for now."),
            ("windows_evicted", now.windows_evicted, "Windows that were local and made room."),
            ("image_bytes", now.bytes_total, "Uncompressed bytes of the image."),
            ("image_bytes_present", now.bytes_present, "Those that are local."),
            ("image_bytes_touched", now.touched_bytes, "Bytes of pages readers asked for."),
            ("fetching_troubled", int(now.trouble is not None), "1 while filling stands still."),
            ("server_resident_bytes", resident_bytes(), "Memory of the mount server."),
        ):
            yield GaugeMetricFamily(f"nopull_{name}", what, value=value)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bounds with how many took no longer, as the exposition format has them."""
    names = [*map(str, BOUNDS), "+Inf"]
    return list(zip(names, map(float, accumulate(histogram.counts)), strict=True))
