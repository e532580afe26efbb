"""The metrics of several processes as one page: the same families, each sample with its `process` label."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

SCRAPE_S: Final = 2.0
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024


async def scrape(host: str, port: int) -> bytes | None:
    """Return a process's page, or None when it does not answer well and in time."""
    try:
        async with asyncio.timeout(SCRAPE_S):
            return await _get(host, port)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None


def merge(pages: Mapping[str, bytes]) -> bytes:
    """Merge pages by family: HELP and TYPE once, samples of all processes (the keys) beneath."""
    families: dict[str, Metric] = {}
    for process, page in pages.items():
        for family in text_string_to_metric_families(page.decode()):
            merged = families.setdefault(
                family.name, Metric(family.name, family.documentation, family.type, family.unit)
            )
            for sample in family.samples:
                merged.samples.append(sample._replace(labels={**sample.labels, "process": process}))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _get(host: str, port: int) -> bytes | None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(PAGE_BYTES_MAX)
        while part := await reader.read(PAGE_BYTES_MAX):
            answer += part
            if len(answer) > PAGE_BYTES_MAX:
                return None
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return body if head.startswith(b"HTTP/1.1 200 ") else None
