"""What is wrong with how agents' secrets are stored."""

from collections.abc import Mapping

from broker.core.diagnosis import Finding, Severity
from broker.core.sealing import Sealer


def judge_secrets(counted: Mapping[str, int], sealer: Sealer) -> list[Finding]:
    """Return what is wrong, given how many secrets begin with which mark (empty: they are in the clear)."""
    found = []
    clear = counted.get("", 0)
    if clear and sealer.current:
        found.append(
            Finding(
                "postgres.secrets_in_the_clear",
                Severity.WARNING,
                f"{clear} secrets of agents are stored unencrypted",
                "run `agent-broker secrets rotate`",
            )
        )
    lost = sum(count for mark, count in counted.items() if mark and not sealer.has(mark))
    if lost:
        found.append(
            Finding(
                "postgres.secrets_unreadable",
                Severity.WARNING,
                f"{lost} secrets of agents are encrypted with a key SECRETS_KEY lacks: their pushes wait",
                "add that key to SECRETS_KEY, behind the first; or rotate the secrets of these agents",
            )
        )
    return found
