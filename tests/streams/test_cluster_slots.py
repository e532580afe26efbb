"""Slots: the arithmetic by known values, keys of commands, who serves what, and evening it out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.streams.cluster import doors, node_urls
from broker.streams.keys import Keys
from broker.streams.replies import Redirected, as_broker_error
from broker.streams.slots import SLOTS, Address, SlotMap, even_out, key_of, parse_slots, slot_of, slot_of_tag

A, B, C = (Address("host", port) for port in (1, 2, 3))


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 0x31C3),  # the check value of the specification, below 16,384 as it is
        ("foo", 12182),
        ("bar", 5061),
        ("", 0),
        ("ab:{0}:active", 13907),
        ("{0}", 13907),
        (b"{0}:other", 13907),
        ("{user1000}.following", 3443),
        ("{user1000}.followers", 3443),
        ("foo{}{bar}", 8363),  # an empty tag is none: the whole key counts
        ("foo{{bar}}zap", 4015),  # the tag is `{bar`
    ],
)
def test_slots_are_those_of_the_specification(key, slot):
    assert slot_of(key) == slot


@given(st.integers(0, 255), st.text(st.characters(exclude_characters="{}:|", codec="utf-8"), max_size=40))
def test_every_key_of_a_shard_is_in_one_slot(shard, agent):
    keys = Keys(shard)
    of_agent = [keys.session(agent), keys.allowance("contact", agent, agent), keys.parked_stream(agent)]
    names = [keys.active, keys.ledger, keys.owner("route"), keys.seen(7), *keys.ingress.values(), *of_agent]
    assert {slot_of(name) for name in names} == {slot_of_tag(b"%d" % shard)}


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("XADD", "k", "*", "m", b"x"), "k"),
        (("EVALSHA", "digest", 2, "k", "l", "argument"), "k"),
        (("EVAL", "return 1", 0), None),
        (("XREAD", "COUNT", 1, "BLOCK", 5, "STREAMS", "k", "l", "0", "0"), "k"),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "k", ">"), "k"),
        (("XGROUP", "CREATE", "k", "g", "0"), "k"),
        (("PUBLISH", "channel", b"x"), "channel"),
        (("TIME",), None),
        (("CLIENT", "SETNAME", "x"), None),
        (("FLUSHALL",), None),
    ],
)
def test_a_command_goes_by_its_first_key(command, key):
    assert key_of(command) == key


def test_a_reply_to_cluster_slots_is_read():
    reply = [
        [0, 100, [b"10.0.0.1", 7000, b"id", []], [b"10.0.0.9", 7009, b"replica", []]],
        [200, SLOTS - 1, [b"", 7001, b"id", []]],
    ]
    slots = parse_slots(reply, asked=Address("asked", 6379))
    assert slots.owner(100) == ("10.0.0.1", 7000)
    assert slots.owner(101) is None
    assert slots.owner(200) == ("asked", 7001)  # one that does not know its address says so by none
    assert not slots.is_whole


def equal_ranges(*nodes: Address) -> SlotMap:
    count = len(nodes)
    return SlotMap((n * SLOTS // count, (n + 1) * SLOTS // count - 1, node) for n, node in enumerate(nodes))


def test_sixty_four_shards_are_even_on_three_equal_ranges_and_eight_are_not():
    slots = equal_ranges(A, B, C)
    assert sorted(slots.shards_by_node(64).values()) == [21, 21, 22]
    assert even_out(slots, 64) == []
    assert sorted(slots.shards_by_node(8).values()) == [2, 2, 4]


@given(shards=st.integers(1, 256), nodes=st.integers(1, 8))
def test_evening_out_moves_the_fewest_slots_until_no_two_nodes_differ_by_more_than_one(shards, nodes):
    slots = equal_ranges(*(Address("host", port) for port in range(1, nodes + 1)))
    before = slots.shards_by_node(shards)
    moves = even_out(slots, shards)
    for move in moves:
        assert slots.owner(move.slot) == move.source
        slots.move(move.slot, move.target)
    after = slots.shards_by_node(shards)
    assert max(after.values()) - min(after.values()) <= 1
    surplus = sum(max(0, count - -(-shards // nodes)) for count in before.values())
    missing = sum(max(0, shards // nodes - count) for count in before.values())
    assert len(moves) == max(surplus, missing)


@pytest.mark.parametrize(
    ("text", "host", "port", "is_asking"),
    [
        ("MOVED 3999 127.0.0.1:6381", "127.0.0.1", 6381, False),
        ("ASK 3999 2001:db8::1:6381", "2001:db8::1", 6381, True),
        ("MOVED 3999 :6381", "", 6381, False),
    ],
)
def test_redirections_are_read(text, host, port, is_asking):
    error = as_broker_error(text)
    assert isinstance(error, Redirected)
    assert (error.host, error.port, error.is_asking, error.slot) == (host, port, is_asking, 3999)


def test_a_url_may_name_several_nodes():
    assert [url for url, _ in doors("redis://u:p@a:1,b:2/0")] == ["redis://u:p@a:1/0", "redis://u:p@b:2/0"]
    assert node_urls("unix://:p@/tmp/valkey.sock?db=0") == ["unix://:p@/tmp/valkey.sock?db=0"]
