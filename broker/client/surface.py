"""What both clients offer: one attribute per subject, and the operations most used on the client itself."""

from broker.client.subject import ShellT, Subject
from broker.client.subjects.agents import Agents
from broker.client.subjects.contacts import Contacts
from broker.client.subjects.dead_letters import DeadLetters
from broker.client.subjects.inbox import Inbox
from broker.client.subjects.keys import Keys
from broker.client.subjects.messages import Messages
from broker.client.subjects.presence import Presence
from broker.client.subjects.statistics import Statistics
from broker.client.subjects.stops import KillSwitches, Trips
from broker.client.subjects.system import System
from broker.client.subjects.work_orders import WorkOrders


class Surface(Subject[ShellT]):
    """Every operation of the contract, on one shell."""

    register = Agents.register
    agent = Agents.show
    heartbeat = Agents.heartbeat
    send = Messages.send
    message = Messages.show
    attempts = Messages.attempts
    route = Messages.route
    processed = Messages.processed
    failed = Messages.failed
    cancel = Messages.cancel

    def __init__(self, shell: ShellT) -> None:
        super().__init__(shell)
        self.agents: Agents[ShellT] = Agents(shell)
        self.messages: Messages[ShellT] = Messages(shell)
        self.keys: Keys[ShellT] = Keys(shell)
        self.inbox: Inbox[ShellT] = Inbox(shell)
        self.presence: Presence[ShellT] = Presence(shell)
        self.contacts: Contacts[ShellT] = Contacts(shell)
        self.work_orders: WorkOrders[ShellT] = WorkOrders(shell)
        self.dead_letters: DeadLetters[ShellT] = DeadLetters(shell)
        self.trips: Trips[ShellT] = Trips(shell)
        self.kill_switches: KillSwitches[ShellT] = KillSwitches(shell)
        self.stats: Statistics[ShellT] = Statistics(shell)
        self.system: System[ShellT] = System(shell)
