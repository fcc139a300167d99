"""A verdict on the terminal: what was gained, what it cost, how sure of both one can be, and what to do next."""

from rich.table import Table

from foveate.console import err, escape, table
from foveate.fitting.outcome import Outcome
from foveate.written import Rung, Verdict

COLOURS = {"shown": "green", "observed": "yellow", "broken": "red"}
ROLES = {"full": "full precision", "int8": "int8", "any": "any precision", "plan": "the plan"}


def show(outcome: Outcome) -> None:
    """On stderr."""
    verdict = outcome.verdict
    err.print()
    err.print(("[bold green]faster[/]   " if outcome.faster else "[bold yellow]dense[/]    ") + escape(verdict.reason))
    colour = COLOURS[verdict.budget.outcome]
    err.print(f"[{colour}]budget[/]   {escape(verdict.budget.text)}: {escape(verdict.budget.said)}")
    for line in latency_lines(verdict):
        err.print(f"latency  {line}")
    if verdict.ladder:
        err.print(ladder(verdict.ladder))
    for warning in verdict.warnings:
        err.print(f"[bold yellow]warning[/]  {escape(warning)}")
    err.print(f"plan     {escape(outcome.plan.summary())}")
    err.print(f"written  {escape(str(outcome.folder))}/ (report.html, plan.json, model; {outcome.seconds:.0f} s)")
    if verdict.note:
        err.print(f"[bold red]note[/]     {escape(verdict.note)}")
    for command in verdict.next:
        err.print(f"next     {escape(command)}")


def latency_lines(verdict: Verdict) -> list[str]:
    """Both builds from the same pairs."""
    lines = []
    for role, ms in verdict.latency_ms.items():
        tail = "too few calls for a p99" if ms.p99 is None else f"p99 {ms.p99:.4g} ms"
        lines.append(f"{role:5} {ms.p50:.4g} ms (median of {ms.n}), {tail}")
    return lines


def ladder(rungs: tuple[Rung, ...]) -> Table:
    made = table("best dense", "build", "ms", "share", "points lost", title="The ladder", title_justify="left")
    for rung in rungs:
        cost = "-" if rung.cost is None else f"{rung.cost.value:.2f}"
        if rung.cost is not None and rung.cost.low is not None and rung.cost.high is not None:
            cost += f" [{rung.cost.low:.2f}, {rung.cost.high:.2f}]"
        build = f"{rung.runtime} {rung.precision}"
        made.add_row(ROLES[rung.role], build, f"{rung.latency_ms:.4g}", f"{rung.share:.3f}", escape(cost))
    return made
