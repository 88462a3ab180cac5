"""What Prometheus reads: how much was reused, how fast, how many wait, what is held."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from bwcache.serve.job import Job

SHARES = tuple(tenth / 10 for tenth in range(1, 11))
SPEEDUPS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Figures:
    """Counts what happens, in a registry of its own. Names and meanings are in docs/serve.md."""

    def __init__(self) -> None:
        self._all = CollectorRegistry()
        ProcessCollector(registry=self._all)  # resident memory, CPU, open files of this process
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self._videos = counter("videos", "Videos by how they ended: done, failed, cancelled or refused", ["outcome"])
        self._steps = counter("steps", "Denoising steps of all videos: compute, reuse or mixed", ["action"])
        self._rate = histogram("reuse_rate", "Share of the rows of a video that were reused", SHARES)
        self._speedup = histogram("estimated_speedup", "Of a video's denoising, had all been computed", SPEEDUPS)
        self._wait = histogram("wait_seconds", "From the request to the beginning", SECONDS)
        self._make = histogram("make_seconds", "From the beginning to the end", SECONDS)
        self._decode = histogram("decode_seconds", "Of these, what comes after the denoising", SECONDS)
        self._waiting = gauge("queue_length", "Videos that wait")
        self._running = gauge("running", "Videos that are being made")
        self._kept = gauge("kept_bytes", "Held between the steps of the last video, on the device")
        self._host = gauge("kept_host_bytes", "Held between the steps of the last video, in main memory")

    def text(self) -> bytes:
        """Return all of it in Prometheus' own format."""
        return generate_latest(self._all)

    def refused(self) -> None:
        """Take note of an order for which there was no room."""
        self._videos.labels("refused").inc()

    def step(self, step: dict[str, Any]) -> None:
        """Take note of a step."""
        self._steps.labels(step["action"]).inc()

    def queue(self, waiting: int, running: int) -> None:
        """Take note of how many wait and how many are made."""
        self._waiting.set(waiting)
        self._running.set(running)

    def ended(self, outcome: str, data: dict[str, Any], job: Job) -> None:
        """Take note of a video that is made, or never will be."""
        self._videos.labels(outcome).inc()
        if job.begun is not None and job.ended is not None:
            self._wait.observe(job.begun - job.asked)
            self._make.observe(job.ended - job.begun)
        if outcome != "done":
            return
        self._rate.observe(data["reuse_rate"])
        if data["estimated_speedup"] is not None:
            self._speedup.observe(data["estimated_speedup"])
        if data["after_seconds"] is not None:
            self._decode.observe(data["after_seconds"])
        self._kept.set(data["device_bytes"])
        self._host.set(data["host_bytes"])

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"bwcache_{name}", text, labels, registry=self._all)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"bwcache_{name}", text, registry=self._all)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"bwcache_{name}", text, buckets=buckets, registry=self._all)
