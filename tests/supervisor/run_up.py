"""`up` with tiny children in place of the broker's roles, as a process of its own.

`python run_up.py <directory> <stage>...`; a stage reads `behaviour:name,behaviour:name`. Settings come from
the environment as always.
"""

import asyncio
import sys
from pathlib import Path

from broker.settings import Settings, load
from broker.supervisor.child import Child
from broker.supervisor.plan import Plan, Stages
from broker.supervisor.up import Up
from broker.telemetry import logs

CHILDREN = Path(__file__).with_name("children.py")


def main(directory: str, *stages: str) -> int:
    settings = load()
    logs.configure(level=settings.log_level, format=settings.log_format, process="supervisor")

    def make(plan: Plan, _: Settings) -> Stages:
        return [[_child(plan, directory, spec) for spec in stage.split(",")] for stage in stages]

    def _child(plan: Plan, directory: str, spec: str) -> Child:
        behaviour, _, name = spec.partition(":")
        return plan.child(name, [sys.executable, str(CHILDREN), behaviour, directory, name])

    return asyncio.run(Up(settings, stages=make).run())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
