"""GET /metrics for Prometheus: the scheduler's counters, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nextword.sample.scheduler import Scheduler


class _Counts(Collector):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterable[Metric]:
        counts = self._scheduler.counts
        for name, meaning, value in (
            ("prompt_tokens", "Tokens of prompts that were read.", counts.prompt_tokens),
            ("cached_tokens", "Tokens of prompts that had been read before.", counts.cached_tokens),
            ("written_tokens", "Tokens drawn.", counts.written_tokens),
            ("texts", "Texts written to their end.", counts.texts),
            ("cancelled_texts", "Texts whose asker left.", counts.cancelled),
            ("refused_texts", "Texts refused because the queue was full.", counts.refused),
        ):
            yield CounterMetricFamily(f"nextword_{name}", meaning, value=value)
        for name, meaning, value in (
            ("rows", "Texts that can be written at once.", self._scheduler.size),
            ("running_texts", "Texts being read or written.", self._scheduler.running),
            ("waiting_texts", "Texts in the queue.", self._scheduler.waiting),
        ):
            yield GaugeMetricFamily(f"nextword_{name}", meaning, value=value)


def metrics_of(scheduler: Scheduler) -> bytes:
    """Counters and gauges of a scheduler in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Counts(scheduler))
    return generate_latest(registry)
