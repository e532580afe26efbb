"""What the demonstration shows: who is doing what while it runs, who did what at the end."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from broker.demo.account import Account, share_ms
from broker.demo.stage import Stage


def progress(stage: Stage, total: int) -> Table:
    """Return the live table."""
    bot = stage.bot
    table = Table(title=f"{bot.name}: {len(bot.asked)} of {total} asked, {len(bot.answers)} answered")
    table.add_column("agent", no_wrap=True)
    table.add_column("can do")
    table.add_column("here")
    for heading in ("taken", "done", "500s", "hangs", "repeats"):
        table.add_column(heading, justify="right")
    for actor in stage.scrapers:
        counts, skills = actor.counts, actor.part.skills if actor.part else ()
        figures = (counts.got, counts.worked, counts.refused, counts.hung, counts.repeated)
        here = "yes" if actor.is_here else "not yet"
        table.add_row(actor.name, " ".join(skills), here, *(str(figure) for figure in figures))
    return table


def progress_line(stage: Stage, total: int) -> str:
    """Return the same in one line, for output that is no terminal."""
    bot = stage.bot
    done = "  ".join(f"{actor.name} {actor.counts.worked}" for actor in stage.scrapers)
    return f"asked {len(bot.asked)}/{total}  answered {len(bot.answers)}  done: {done}"


def closing(account: Account, round_trips_ms: list[int]) -> Table:
    """Return the account; narrow enough for a terminal of 80 columns."""
    table = Table(
        title="Who did what, as the broker recorded it",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("agent", no_wrap=True)
    for heading in ("tasks", "tries", "failed", "late", "p50", "p95", "max"):
        table.add_column(heading, justify="right")
    for name, line in sorted(account.lines.items()):
        counts = (line.tasks, line.attempts, line.failed, line.timeouts)
        times = (share_ms(line.delivered_ms, share) for share in (0.5, 0.95, 1.0))
        table.add_row(name, *map(str, counts), *map(_duration, times))
    middle, slow = (_duration(share_ms(round_trips_ms, share)) for share in (0.5, 0.95))
    table.caption = (
        "failed, late: tries that were refused, or not answered in time\n"
        "p50, p95, max: from asked to delivered\n"
        f"asked to answered: p50 {middle}, p95 {slow}"
    )
    return table


def _duration(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds} ms" if milliseconds < 1_000 else f"{milliseconds / 1000:.1f} s"


def verdict(account: Account) -> str:
    """Say whether anything was lost."""
    counted = (
        f"{account.asked} asked, {account.processed} processed, {account.answered} answered"
        f" ({account.repeated_answers} answers came twice)"
    )
    if account.refused:
        counted += f", {account.refused} REFUSED"
    if not account.lost:
        return f"{counted}: nothing was lost"
    shown = ", ".join(account.lost[:10])
    return f"{counted}: {len(account.lost)} LOST: {shown}"
