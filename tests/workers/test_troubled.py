"""Endpoints that wait for their breaker, or their pace, come out when they may be sent to, once each."""

from types import SimpleNamespace

from workers.delivery.troubled import Troubled


def endpoint():
    """What the heap sees of an endpoint."""
    return SimpleNamespace(waits_until_ms=0)


def due(troubled: Troubled, now_ms: int) -> list[object]:
    return list(troubled.due(now_ms))


def test_endpoints_come_in_the_order_of_their_moments_and_none_too_early():
    troubled, late, soon = Troubled(), endpoint(), endpoint()
    troubled.put(late, 300)
    troubled.put(soon, 100)
    assert due(troubled, 99) == []
    assert due(troubled, 100) == [soon]
    assert due(troubled, 1_000) == [late]
    assert due(troubled, 1_000) == []


def test_an_endpoint_put_twice_comes_once():
    troubled, one = Troubled(), endpoint()
    troubled.put(one, 100)
    troubled.put(one, 100)
    assert due(troubled, 200) == [one]
    assert due(troubled, 200) == []


def test_a_moment_that_moves_forward_counts_at_once_and_the_old_one_no_more():
    troubled, one = Troubled(), endpoint()
    troubled.put(one, 20_000)
    troubled.put(one, 10_000)
    assert due(troubled, 10_000) == [one]
    assert due(troubled, 20_000) == []


def test_what_is_put_back_meanwhile_comes_at_the_next_look():
    troubled, one = Troubled(), endpoint()
    troubled.put(one, 100)
    seen = 0
    for found in troubled.due(100):
        seen += 1
        troubled.put(found, 100)
    assert seen == 1
    assert due(troubled, 100) == [one]
