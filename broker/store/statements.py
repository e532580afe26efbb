"""Load statements from `sql/`, one per file; a line `\\ir name.sql`, as psql has it, includes another file.

Files are read once, when the module that runs them is imported: a missing one shows at start, not at night.
"""

import re
from importlib.resources import files

_INCLUDE = re.compile(r"^\\ir (\S+)$", re.MULTILINE)
_PURPOSE = re.compile(r"^--.*\n", re.MULTILINE)


def load(name: str) -> str:
    """Return the statement in `sql/<name>.sql`, whole and without its full-line comments."""
    text = _read(f"{name}.sql")
    return _PURPOSE.sub("", _INCLUDE.sub(lambda include: _read(include[1]).rstrip(), text)).strip()


def _read(file_name: str) -> str:
    return (files("broker.store") / "sql" / file_name).read_text()
