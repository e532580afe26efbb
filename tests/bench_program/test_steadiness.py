from broker.bench.steadiness import WINDOW_S, judge, look


def test_a_steady_machine_has_no_spell() -> None:
    found = judge([0.0002] * 100)
    assert (found.slow_share, found.spells, found.longest_ms, found.worst) == (0.0, 0, 0.0, 1.0)
    assert "steady" in str(found)


def test_slow_windows_in_a_row_are_one_spell() -> None:
    windows = [1.0] * 80 + [4.0, 5.0, 3.0] + [1.0] * 10 + [2.5] + [1.0] * 6
    found = judge(windows)
    assert found.spells == 2
    assert found.longest_ms == 3 * WINDOW_S * 1000
    assert found.slow_share == 4 / 100
    assert found.worst == 5.0
    assert "4.0% of 1 s, 2 times, up to 30 ms at a time, 5.0 times slower" in str(found)


async def test_every_core_is_looked_at() -> None:
    found = await look(0.2)
    assert 0 < found.seconds <= 0.3
    assert 0.0 <= found.slow_share <= 1.0
    assert found.worst >= 1.0
