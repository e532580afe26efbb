"""A scraper: takes tasks by capability, fetches a page, returns what it found or why it could not.

    AGENT_API_KEY=<operator key> python examples/scraper.py

A task for it names no recipient, only what has to be done:

    {"message_type": "task", "content": {"requirements": ["scrape"], "parameters": {"url": "https://..."}}}
"""

from html.parser import HTMLParser
from typing import Any

import httpx

from broker.client import Agent, Message, Retry

TIMEOUT_S = 10.0
LINKS_MAX = 50
BUSY = frozenset((429, 502, 503, 504))


class Page(HTMLParser):
    """The title and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        target = dict(attrs).get("href")
        if tag == "a" and target and len(self.links) < LINKS_MAX:
            self.links.append(target)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data.strip()

    def handle_endtag(self, tag: str) -> None:
        self._in_title = self._in_title and tag != "title"


async def scrape(message: Message) -> dict[str, Any]:
    """Return title and links of the page asked for.

    What is raised here fails the task, with the reason; a site that is only busy is tried again later.
    """
    url = message.content["parameters"]["url"]
    async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=True) as http:
        reply = await http.get(url)
    if reply.status_code in BUSY:
        raise Retry(after=float(reply.headers.get("Retry-After", "5")))
    reply.raise_for_status()
    page = Page()
    page.feed(reply.text)
    return {"url": str(reply.url), "title": page.title, "links": page.links}


def make_agent(**more: Any) -> Agent:  # whatever Agent takes
    """Return the agent, ready to run."""
    agent = Agent("scraper", capabilities=["scrape"], type="scraper", **more)
    agent.on("task")(scrape)
    return agent


if __name__ == "__main__":
    make_agent().run()
