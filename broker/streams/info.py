"""What Redis answers to INFO, read."""


def parse_info(info: bytes) -> dict[str, str]:
    """Return the fields of an answer to INFO by their names."""
    lines = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}


def memory_share(info: bytes) -> float:
    """Return which part of its limit a Redis uses, by INFO memory; 0 where it has none (no process starts on
    such a one)."""
    told = parse_info(info)
    limit = int(told["maxmemory"])
    return int(told["used_memory"]) / limit if limit else 0.0
