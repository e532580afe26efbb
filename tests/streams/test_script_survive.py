"""The survive script: a death that was none is taken back, once."""

from streams_rig import OWNER

from broker.streams.scripts import SURVIVE


async def survive(connection, keys, life, *places, owner=OWNER):
    names = (keys.deliverer, keys.deaths, keys.trials, keys.survived(life))
    return await connection.evaluate(SURVIVE, names, owner, 60_000, *places)


async def test_a_death_is_taken_back_once_however_often_it_is_said(connection, keys, raw):
    raw.set(keys.deliverer, "9:next")
    raw.set(keys.deaths, 3)
    raw.hset(keys.trials, mapping={"inbox|1-0": 2, "inbox|2-0": 1})
    for _ in range(3):
        await survive(connection, keys, "a", "inbox|1-0", "inbox|2-0")
    assert raw.get(keys.deaths) == b"2"
    assert raw.hgetall(keys.trials) == {b"inbox|1-0": b"1"}
    await survive(connection, keys, "b")
    assert raw.get(keys.deaths) == b"1"
    assert raw.get(keys.deliverer) == b"9:next"


async def test_where_nobody_has_counted_it_yet_its_word_goes(connection, keys, raw):
    raw.set(keys.deliverer, OWNER)
    raw.set(keys.deaths, 3)
    await survive(connection, keys, "a")
    assert (raw.get(keys.deliverer), raw.get(keys.deaths)) == (None, b"3")
