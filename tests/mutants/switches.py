"""The mutants: deliberate faults of the broker, each with the test that catches it.

`apply` turns one on in this process for good (a child process of a harness); `applied` for as long as a
context lasts. Nothing but tests imports this, and the product has no switch of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from msgspec import Struct

from mutants import faults
from mutants.faults import Plant


class Mutant(Struct, frozen=True):
    """One fault. `caught_by`: the test that fails with it, as pytest names it below `tests/`; `because`: what
    that failure says, so that a test which fails for another reason does not count as its catcher."""

    fault: str
    plant: Plant
    caught_by: str
    because: str


MUTANTS: Final[dict[str, Mutant]] = {
    "cut_before_commit": Mutant(
        "the ledger is cut before PostgreSQL has committed it",
        faults.cut_before_commit,
        "workers/test_recorder.py::test_stopping_while_postgres_is_away_leaves_the_ledger_as_it_is",
        "assert await bench.length() == 1",
    ),
    "move_in_two_calls": Mutant(
        "routing deletes from the ingress in one call and adds to the mailbox in the next",
        faults.move_in_two_calls,
        "streams/test_out_of_memory.py::test_a_batch_is_refused_whole[embedded-to a mailbox]",
        "assert dump(full) == before",
    ),
    "capped_mailboxes": Mutant(
        f"mailboxes keep their last {faults.CAPPED} entries (`MAXLEN`)",
        faults.capped_mailboxes,
        "streams/test_script_route.py::test_a_mailbox_holds_whatever_is_routed_to_it[embedded]",
        "assert raw.xlen(BOX) == ",
    ),
    "no_deduplication": Mutant(
        "a message that was published before is routed again",
        faults.no_deduplication,
        "streams/test_script_route.py::test_what_was_seen_is_a_duplicate[embedded-the next window]",
        "assert (reply[0] is None) is is_duplicate",
    ),
    "no_reading_from_the_start": Mutant(
        "a new owner does not look into the mailboxes it takes over",
        faults.no_reading_from_the_start,
        "workers/test_attempts.py::test_a_takeover_reads_every_mailbox_there_is[embedded]",
        "await world.until_ended(ids)",
    ),
    "direct_messages_left_behind": Mutant(
        "a new owner does not look at what was handed directly to the one before",
        faults.direct_messages_left_behind,
        "workers/test_handed_over.py::test_a_new_owner_has_all_of_it_in_its_order[embedded]",
        "await world.until_ended(ids)",
    ),
    "handed_to_whoever": Mutant(
        "messages are handed directly to an owner that is no more",
        faults.handed_to_whoever,
        "streams/test_script_direct.py::test_nothing_is_handed_to_whom_nobody_is_any_more[embedded]",
        "DID NOT RAISE",
    ),
    "judged_before_the_connect": Mutant(
        "an address is judged, and the name resolved again to connect",
        faults.judged_before_the_connect,
        "transport/test_dialling.py::test_a_name_rebound_after_it_was_judged_leads_nowhere_else[uvloop]",
        "assert canary.accepted == 0",
    ),
    "settled_unfenced": Mutant(
        "settling does not ask whether its owner still holds the lease",
        faults.settled_unfenced,
        "streams/test_script_settle.py::test_a_stale_settlement_is_fenced_and_changes_nothing_at_all[embedded]",
        "DID NOT RAISE",
    ),
    "lease_taken_from_its_holder": Mutant(
        "a lease is given to whoever asks",
        faults.lease_taken_from_its_holder,
        "streams/test_script_keep.py::test_a_lease_is_taken_by_one_and_its_tokens_only_grow[embedded]",
        "is None",
    ),
    "deleted_when_posted": Mutant(
        "an entry leaves its mailbox when it is posted, not when the answer has come",
        faults.deleted_when_posted,
        "workers/test_attempts.py::test_a_second_owner_sends_again_what_was_in_flight_with_the_same_id[embedded]",
        "await world.until_ended(ids",
    ),
    "retries_taken_out": Mutant(
        "attempts are not counted across a takeover",
        faults.retries_taken_out,
        "streams/test_script_settle.py::test_due_retries_are_given_once_and_stay_marked[embedded]",
        "assert members(raw.zrange(keys.due",
    ),
    "open_breaker_lets_through": Mutant(
        "attempts are used while the breaker is open",
        faults.open_breaker_lets_through,
        "workers/test_attempts.py::test_while_the_breaker_is_open_messages_wait_without_using_attempts",
        "those in flight when it opened, no more",
    ),
    "choice_not_written_down": Mutant(
        "a choice is forwarded without being written to `chosen` first",
        faults.choice_not_written_down,
        "workers/test_choices_across_shards.py::"
        "test_a_crash_between_forward_and_delete_repeats_the_same_choice[embedded-1]",
        "assert receiver.times == ",
    ),
    "parked_for_ever": Mutant(
        "what is parked does not expire, everything else does",
        faults.parked_for_ever,
        "workers/test_expiry_everywhere.py::test_in_the_mailbox_of_a_puller_and_parked[embedded]",
        "await world.until_ended([*pulled, *parked])",
    ),
    "ended_twice": Mutant(
        "an expiry is written although another has ended the message",
        faults.ended_twice,
        "streams/test_script_settle.py::test_each_entry_expires_with_one_event_and_a_repeat_is_harmless[embedded]",
        "assert [fields for _, fields in raw.xrange(keys.ledger)]",
    ),
    "repeated_under_a_new_id": Mutant(
        "a publish whose reply was lost is repeated under another id",
        faults.repeated_under_a_new_id,
        "streams/test_publisher.py::"
        "test_a_publish_whose_reply_was_lost_is_repeated_and_only_stored_twice[embedded]",
        ".count(lost.id) == 2",
    ),
    "synced_every_second": Mutant(
        "Redis syncs once a second where every answer is promised to be on disk",
        faults.synced_every_second,
        "servers/test_servers.py::test_valkey_is_durable_bounded_and_never_evicts[always-None]",
        "'appendfsync': 'everysec'",
    ),
    "status_goes_backwards": Mutant(
        "a late event takes a message out of its end, in memory",
        faults.status_goes_backwards,
        "core/test_fold.py::test_the_higher_rank_stays_and_of_two_ends_the_first",
        "assert ",
    ),
    "record_takes_the_last_word": Mutant(
        "a late event takes a message out of its end, in PostgreSQL",
        faults.record_takes_the_last_word,
        "workers/test_recorder.py::test_statuses_of_a_message_told_twice_end_where_they_were",
        'assert view.status == "delivered"',
    ),
    "foreign_messages_shown": Mutant(
        "whoever knows its id may see a message",
        faults.foreign_messages_shown,
        "gateway/test_authorisation_matrix.py::test_a_foreign_thing_looks_as_one_that_never_was",
        "KeyError: 'error'",
    ),
    "secret_logged": Mutant(
        "URLs are logged with their passwords and queries",
        faults.secret_logged,
        "telemetry/test_logs.py::test_secrets_in_urls_are_left_out",
        "assert logs.without_secrets(url) == logged",
    ),
}


def apply(name: str) -> None:
    """Turn a mutant on in this process, for good. Raises: KeyError for an unknown one."""
    MUTANTS[name].plant(pytest.MonkeyPatch())


@contextmanager
def applied(name: str) -> Iterator[None]:
    """Turn a mutant on for as long as the context lasts. Raises: KeyError for an unknown one."""
    with pytest.MonkeyPatch.context() as patch:
        MUTANTS[name].plant(patch)
        yield
