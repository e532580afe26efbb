"""How the harness starts Python: the product's packages are found first, then those of the tests."""

import os
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SEARCHED: Final = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
"""The product first: there is a folder `workers` among the tests, too."""


def module(name: str, *words: str) -> list[str]:
    """Return the command that runs a module of the harness."""
    return [sys.executable, "-P", "-m", f"chaos.{name}", *words]


def searching() -> dict[str, str]:
    """Return this process's environment, with the places above."""
    return {**os.environ, "PYTHONPATH": SEARCHED}
