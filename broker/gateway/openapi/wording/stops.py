"""Words: trips and kill switches."""

from typing import Final

from broker.gateway.openapi.wording.word import AN_AGENT, Word, Words, agent, choice, id_, moment, text
from schema import limits

STOPS: Final[Words] = {
    "trip_id": id_("The trip."),
    "TripView.id": id_("The trip."),
    "sign": choice(
        "What made a loop of it: `repeat`, the same body again and again; `alternation`, message after "
        "message in turns, none of which says what it answers.",
        "repeat",
        "alternation",
    ),
    "TripView.from_agent_id": agent("Who wrote."),
    "TripView.to_agent_id": agent("To whom."),
    "both_ways": Word("Whether nothing passes either way; else only this one is stopped.", False),
    "tripped_at": moment("When it was found."),
    "switch_id": id_("The kill switch."),
    "kill_switch_id": id_("The kill switch."),
    "KillSwitchView.id": id_("The kill switch."),
    "kind": choice("What is switched off.", "agent", "pair", "root"),
    "KillSwitchRequest.agent_id": agent("Nothing from this agent, nothing to it."),
    "KillSwitchRequest.peer_id": agent("With `agent_id`: only what the two send each other."),
    "KillSwitchView.agent_id": Word(
        "The agent, or the first of the two.", AN_AGENT, shown={"format": "uuid"}
    ),
    "KillSwitchView.peer_id": Word("The second of the two.", None, shown={"format": "uuid"}),
    "KillSwitchRequest.root_id": id_("Everything that goes back to this message, and itself.", None),
    "KillSwitchView.root_id": id_("The message that what is stopped goes back to.", None),
    "KillSwitchRequest.reason": text(
        "Why, for those who find it later.", "loops", limits.KILL_REASON_CHARS_MAX
    ),
}
