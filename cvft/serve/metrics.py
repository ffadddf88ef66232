"""What the server counts, for Prometheus; names as vLLM has them, under `cvft:`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Bounds of the histograms of times, in seconds."""


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def gauge(name: str, help_text: str) -> Gauge:
            return Gauge(f"cvft:{name}", help_text, registry=registry)

        def seconds(name: str, help_text: str) -> Histogram:
            return Histogram(f"cvft:{name}", help_text, buckets=SECONDS, registry=registry)

        self.running = gauge("num_requests_running", "Requests that the model answers now.")
        self.waiting = gauge("num_requests_waiting", "Requests that wait for the model.")
        self.queue_time = seconds("request_queue_time_seconds", "Time that requests waited for the model.")
        self.time_to_first_token = seconds("time_to_first_token_seconds", "Time to the first token of an answer.")
        self.latency = seconds("e2e_request_latency_seconds", "Time from the queue to the end of an answer.")
        self.prompt_tokens = Counter("cvft:prompt_tokens", "Tokens of prompts.", registry=registry)
        self.generation_tokens = Counter("cvft:generation_tokens", "Tokens of answers.", registry=registry)
        self.success = Counter(
            "cvft:request_success", "Answers, by how they ended.", ["finished_reason"], registry=registry
        )
        self.failure = Counter(
            "cvft:request_failure", "Requests refused, by HTTP status.", ["status"], registry=registry
        )
        self.prefix_queries = Counter("cvft:prefix_cache_queries", "Clips looked for in memory.", registry=registry)
        self.prefix_hits = Counter("cvft:prefix_cache_hits", "Clips found there.", registry=registry)

    def text(self) -> bytes:
        """Returns all of them in Prometheus' text format."""
        return generate_latest(self._registry)
