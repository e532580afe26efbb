"""The table of operations against the client: every one has a method, and both clients have the same."""

import inspect
from collections.abc import Iterator

import pytest

from broker.client import AgentClient, Client
from broker.client.subject import Events, Operation, Pages, Subject
from broker.gateway.operations import OPERATIONS

FOR_BROWSERS = {"docs", "docsStyle", "docsScript"}
"""Pages, not operations a program calls."""


def subjects_of(client: object) -> dict[str, Subject]:
    return {
        name: value for name, value in vars(client).items() if isinstance(value, Subject) and name[0] != "_"
    }


def operations_of(client: object) -> Iterator[str]:
    for subject in (client, *subjects_of(client).values()):
        for kind in type(subject).__mro__:
            for member in vars(kind).values():
                if isinstance(member, (Operation, Pages, Events)):
                    yield member.name


@pytest.fixture
def plain() -> Iterator[Client]:
    with Client("http://127.0.0.1:9", "key") as client:
        yield client


async def test_every_operation_has_a_method_and_every_method_an_operation(plain: Client) -> None:
    there = {operation.name for operation in OPERATIONS}
    assert set(operations_of(plain)) == there - FOR_BROWSERS
    async with AgentClient("http://127.0.0.1:9", "key") as client:
        assert set(operations_of(client)) == set(operations_of(plain))
        assert subjects_of(client).keys() == subjects_of(plain).keys()


def test_methods_show_the_signature_and_words_of_their_builders(plain: Client) -> None:
    assert list(inspect.signature(plain.work_orders.accept).parameters) == [
        "work_order_id",
        "estimated_completion",
        "agent_id",
    ]
    assert str(plain.messages.send.__doc__).startswith("Send a message")
