"""The whole delivery path with hostile endpoints in its directory, as older releases may have stored them."""

import asyncio

from canary_listener import listening
from hostile_addresses import HOSTILE, ZONE, NameServer, each
from worker_rig import World, message

from broker.core.addresses import AddressPolicy
from broker.transport.client import PushClient
from broker.transport.resolver import Resolver
from schema.ledger import Event
from schema.message import Status

REBOUND = "rebound between two questions"
"""Their first answer is a public address, which no test may dial."""
REFUSED = ("denied:", "resolve:")


def _client(policy: AddressPolicy) -> PushClient:
    return PushClient(policy=policy, resolver=Resolver(policy, getaddrinfo=NameServer(), cache_ms=0))


async def test_no_agent_makes_a_worker_call_inside(streams_url):
    async with listening() as canary, World(streams_url) as world:
        policy = AddressPolicy(ports=(80, 443, canary.port))
        world.make_client = lambda: _client(policy)
        agents = [
            world.agent(endpoint=url.replace("\x00", "%00"))
            for kind, url in each(canary.port)
            if kind != REBOUND
        ]
        assert len(agents) >= 150
        await world.site()
        ids = await world.send(*(message(agent, metadata={"max_retries": 0}) for agent in agents))
        await world.until_ended(ids, timeout_s=60)
        assert {end[0] for ends in world.ends().values() for end in ends} == {Status.FAILED}
        assert [
            event.attempt for events in world.by_id().values() for event in events if _got_out(event)
        ] == []
        assert canary.came == 0
        await world.until_clean()


def _got_out(event: Event) -> bool:
    """Tell whether an attempt ended otherwise than refused by us. An endpoint that is no URL has none."""
    attempt = event.attempt
    return attempt is not None and not (attempt.error or "").startswith(REFUSED)


async def test_a_name_that_is_rebound_inside_is_not_followed_there_by_a_retry(streams_url):
    """First it leads to a receiver it may lead to, then to another address of this machine."""
    answers = iter([["127.0.0.1"]])

    def rebound(host: str, port: object, **_: object) -> list[tuple[object, ...]]:
        return [(None, None, None, "", (address, 0)) for address in next(answers, ["127.0.0.2"])]

    policy = AddressPolicy(["127.0.0.1/32"])
    async with listening() as canary, World(streams_url) as world:
        world.make_client = lambda: PushClient(
            policy=policy, resolver=Resolver(policy, getaddrinfo=rebound, cache_ms=0)
        )
        async with await asyncio.start_server(_fails_once, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            agent = world.agent(endpoint=f"http://rebound.example:{port}/")
            await world.site()
            [sent] = await world.send(message(agent, metadata={"max_retries": 1}))
            await world.until_ended([sent])
        attempts = [event.attempt for event in world.by_id()[sent] if event.attempt is not None]
        assert [attempt.response_code for attempt in attempts] == [500, None]
        assert attempts[1].error == "denied: the name leads to an address that is loopback"
        assert canary.came == 0


async def _fails_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


def test_every_name_of_the_table_is_in_its_zone():
    names = {url.split("//")[1].split(":")[0].split("/")[0] for url in HOSTILE["good and bad answers mixed"]}
    assert names <= set(ZONE)
