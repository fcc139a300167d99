"""The section of docs/benchmarks.md on the budget's gate."""

from typing import Any

from benchmarks.markdown import grid, machine


def gate(sheet: dict[str, Any]) -> str:
    about = sheet["about"]
    found = {setting(key): r for key, r in sheet["rows"].items()}
    found = dict(sorted(found.items(), key=lambda item: (item[0] != ("nips", "labels", 1.0, item[0][3]), item[0])))
    groups: dict[tuple[str, str, float], dict[int, dict[str, Any]]] = {}
    for (name, labels, budget, count), r in found.items():
        groups.setdefault((name, labels, budget), {})[count] = r
    text = (
        "## What the budget's gate lets pass\n\n"
        f"{about['model']}, plans of graded strength, {about['precision']} torch;\n"
        f"{next(iter(found.values()))['draws']} fits drawn from each set with replacement, {about['searched']:.0%} of "
        "the photographs searched on; what a plan\nloses on the whole set counts as the truth. Shares of the fits in "
        "which a plan is kept by the gate of before\n(points lost within the budget on both parts) / now (of these, "
        "shown). The rule: [budget.md](budget.md).\n"
    )
    for (name, labels, budget), by_count in groups.items():
        of, what = about["sets"][name], unit(labels)
        text += f"\n{of['of']} ({of['photographs']:,} photographs), {labels}, at most {budget:g} {what}:\n\n"
        plans = next(iter(by_count.values()))["plans"]
        rows = [[p, f"{plans[p]['lost']:.2f}", *(ends(r["plans"][p]) for r in by_count.values())] for p in plans]
        text += grid(["plan", what, *(f"{count} photographs" for count in by_count)], rows)
    head = ["set", "labels", "photographs", "budget", "a plan found", "its loss", "it loses 1.5 budgets",
            "shown, and beyond", "intervals that hold the truth"]  # fmt: skip
    rows = [
        [
            about["sets"][name]["of"], {"labels": "yes"}.get(labels, "no"), str(count), f"{budget:g}",
            *(f"{r['fits']['old'][k]:.2f} / {r['fits']['new'][k]:.2f}" for k in ("found", "lost", "beyond_by_half")),
            f"{r['shown_beyond']} of {r['shown']}", f"{covered(r):.2f}",
        ]
        for (name, labels, budget, count), r in found.items()
    ]  # fmt: skip
    text += (
        f"\nWhole fits, before / now: up to {about['tries']} plans that pass on the search photographs are put to the "
        "unseen ones,\nthose that lose most first, and the first that passes is taken.\n\n"
    )
    return text + grid(head, rows) + "\n" + machine(sheet)


def setting(key: str) -> tuple[str, str, float, int]:
    """(set, "labels" or "no labels", budget, photographs) of a row's key, "nips no labels 200 budget 3"."""
    name, rest = key.split(" ", 1)
    labels, count, _, budget = rest.rsplit(" ", 3)
    return name, labels, float(budget), int(count)


def unit(labels: str) -> str:
    return "points lost" if labels == "labels" else "% of answers changed"


def ends(plan: dict[str, float]) -> str:
    return f"{plan['old_kept']:.2f} / {plan['shown'] + plan['observed']:.2f} ({plan['shown']:.2f})"


def covered(row: dict[str, Any]) -> float:
    return sum(p["covered"] for p in row["plans"].values()) / len(row["plans"])
