"""The transition table: what may follow what, and who may say so."""

import pytest

from broker.core.lifecycle import SETTABLE, TRANSITIONS, Party, is_terminal, may_become, may_set, rank
from schema.message import Status

P, D, X, F, E, C = (
    Status.PENDING,
    Status.DELIVERED,
    Status.PROCESSED,
    Status.FAILED,
    Status.EXPIRED,
    Status.CANCELLED,
)

LEGAL = {(P, D), (P, X), (P, F), (P, E), (P, C), (D, X), (D, F)}


@pytest.mark.parametrize("current", Status)
@pytest.mark.parametrize("wanted", Status)
def test_only_the_listed_transitions_are_legal(current: Status, wanted: Status) -> None:
    assert may_become(current, wanted) == ((current, wanted) in LEGAL)


@pytest.mark.parametrize(
    ("party", "allowed"),
    [
        (Party.RECIPIENT, {(P, X), (P, F), (D, X), (D, F)}),
        (Party.SENDER, {(P, C)}),
        (Party.BROKER, {(P, D), (P, F), (P, E)}),
    ],
)
def test_each_party_sets_only_what_is_its_own(party: Party, allowed: set[tuple[Status, Status]]) -> None:
    found = {(current, wanted) for current in Status for wanted in Status if may_set(party, current, wanted)}
    assert found == allowed


def test_every_transition_has_a_party_and_no_party_makes_another() -> None:
    by_parties = {
        (current, wanted) for table in SETTABLE.values() for current, to in table.items() for wanted in to
    }
    assert by_parties == {(current, wanted) for current, to in TRANSITIONS.items() for wanted in to} == LEGAL


def test_rank_rises_with_every_transition_and_terminal_is_the_top() -> None:
    assert all(rank(current) < rank(wanted) for current, wanted in LEGAL)
    assert {status for status in Status if is_terminal(status)} == {
        status for status in Status if rank(status) == 2
    }
    assert (rank(P), rank(D)) == (0, 1)
