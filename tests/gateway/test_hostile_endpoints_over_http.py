"""What registration refuses of endpoints: all that can be judged without asking a name server."""

import json

import httpx
import pytest
from gateway_rig import calling, held, settings_for, until_ready
from hostile_addresses import GOOD, HOSTILE, each

from broker.settings import Settings

PORT = 8_443
DEFAULT_PORTS = Settings.model_fields["endpoint_ports"].default
JUDGED_AT_CONNECT = {
    "names that lead inside",
    "good and bad answers mixed",
    "rebound between two questions",
}
NAMES = ("metadata.google.internal", "metadata.azure.example", "metadata.alibaba.example")


def refused_at_once() -> list[str]:
    found = [url for kind, url in each(PORT) if kind not in JUDGED_AT_CONNECT]
    return [url for url in found if not any(name in url for name in NAMES)]


async def test_hostile_endpoints_are_refused_at_registration_and_at_every_change(streams_url, database_url):
    settings = settings_for(streams_url, database_url, endpoint_allow_cidrs="", endpoint_ports=DEFAULT_PORTS)
    async with held(settings) as gateway, calling(gateway) as http:
        await until_ready(gateway)
        [fine] = [(await http.post("/api/agents", json={"name": "fine"})).json()["id"]]
        urls = refused_at_once()
        assert len(urls) >= 150
        taken = []
        for number, url in enumerate(urls):
            for reply in (
                await http.post("/api/agents", json={"name": f"bad-{number}", "endpoint": url}),
                await http.patch(f"/api/agents/{fine}", json={"endpoint": url}),
            ):
                if reply.status_code != 422 or reply.json()["error"].get("field") not in ("endpoint", None):
                    taken.append((url, reply.status_code, reply.text))
        assert taken == []
        assert (await http.get(f"/api/agents/{fine}")).json()["endpoint"] is None


async def test_good_endpoints_are_taken(streams_url, database_url):
    settings = settings_for(streams_url, database_url, endpoint_allow_cidrs="", endpoint_ports=DEFAULT_PORTS)
    async with held(settings) as gateway, calling(gateway) as http:
        await until_ready(gateway)
        replies = [
            (await http.post("/api/agents", json={"name": f"good-{number}", "endpoint": url}))
            for number, url in enumerate(GOOD)
        ]
        assert [reply.text for reply in replies if reply.status_code != 201] == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "127.8.8.8"])
async def test_the_gateway_itself_is_no_endpoint_where_loopback_is_allowed(
    host: str, gateway, http: httpx.AsyncClient
) -> None:
    own = f"http://{host}:{gateway.port}/api/messages"
    reply = await http.post("/api/agents", json={"name": "loop", "endpoint": own})
    assert reply.status_code == 422
    assert "the broker's own" in reply.json()["error"]["message"]
    beside = f"http://{host}:{gateway.port + 1}/hook"
    assert (await http.post("/api/agents", json={"name": "beside", "endpoint": beside})).status_code == 201


def test_the_table_survives_json() -> None:
    urls = [url for urls in HOSTILE.values() for url in urls]
    assert json.loads(json.dumps(urls)) == urls
