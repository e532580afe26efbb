"""The scraper example on a real broker, against a site of the test's own."""

from collections.abc import Callable
from typing import Any

from example_rig import Answer, at_work

from broker.client import AgentClient
from examples import scraper

PAGE = (
    b"<html><head><title>Honda Civic</title></head><body><a href='/civic'>Civic</a> <a>none</a></body></html>"
)


async def scraped(operator: AgentClient, where: dict[str, str], url: str) -> Any:
    """Give the example a task and return the message when it has ended."""
    async with at_work(scraper.make_agent(**where)):
        return await operator.messages.send(
            {"requirements": ["scrape"], "parameters": {"url": url}},
            message_type="task",
            wait="processed",
            timeout_ms=20_000,
        )


async def test_a_task_by_capability_comes_back_with_what_the_page_holds(
    operator: AgentClient, where: dict[str, str], serve: Callable[..., str]
) -> None:
    url = serve(lambda path, body: (200, {"Content-Type": "text/html"}, PAGE))
    done = await scraped(operator, where, f"{url}/cars")
    assert (done.status, done.result) == (
        "processed",
        {"url": f"{url}/cars", "title": "Honda Civic", "links": ["/civic"]},
    )


async def test_a_page_that_is_not_there_fails_the_task_with_the_reason(
    operator: AgentClient, where: dict[str, str], serve: Callable[..., str]
) -> None:
    url = serve(lambda path, body: (404, {}, b"no"))
    failed = await scraped(operator, where, url)
    assert failed.status == "failed"
    assert "404" in failed.status_reason


async def test_a_busy_site_is_tried_again(
    operator: AgentClient, where: dict[str, str], serve: Callable[..., str]
) -> None:
    asked: list[str] = []

    def busy_once(path: str, body: bytes) -> Answer:
        asked.append(path)
        return (503, {"Retry-After": "0.05"}, b"") if len(asked) == 1 else (200, {}, PAGE)

    done = await scraped(operator, where, serve(busy_once))
    assert (done.status, len(asked)) == ("processed", 2)
