"""What is measured: a broker that runs already, or a fresh one that is started here and ended afterwards."""

from msgspec import Struct


class Subject(Struct, kw_only=True):
    """Where a broker is and which processes it consists of, as the roots of their trees."""

    api_url: str
    api_key: str
    redis_url: str
    database_url: str
    roots: list[int]
