"""Sections of docs/benchmarks.md on the knob: the frontier, thresholds and exits, and serving under load."""

from typing import Any

from benchmarks.markdown import grid, machine


def knob(sheet: dict[str, Any]) -> str:
    about, found = sheet["about"], [r for r in sheet["rows"].values() if r["kind"] != "pair"]
    pairs = [
        f"{r['points']:+.1f} points [{r['low']:+.1f}, {r['high']:+.1f}] over {r['rival']} ({r['runtime']})"
        for r in sheet["rows"].values() if r["kind"] == "pair"
    ]  # fmt: skip
    rows = [
        [
            (r["kind"] if r["steps"] else f"{r['kind']}, all tokens") + " ^" * r["aimed"],
            f"{r['runtime']} {r['precision']}",
            f"{r['latency_ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
            f"{r['top1']:.2f} [{r['top1_low']:.2f}, {r['top1_high']:.2f}]",
            f"{r['gmacs']:.3f}", f"{r['over_macs']:.2f}", f"{r['energy_mj']:.2f}",
        ]
        for r in sorted(found, key=lambda r: (r["runtime"], r["precision"], r["kind"], -r["latency_ratio"]))
    ]  # fmt: skip
    return (
        "## IRET-style: one model, many operating points\n\n"
        f"From the real ViT-Tiny, fine-tuned on clothing10 for {about['epochs']} epochs by one recipe: one IRET-style\n"
        "model for all its points, the ViT whole and then pruned without training, and the ViT through one plan of\n"
        "EViT's. A reconstruction; none of these figures is IRET's. What the deployed files answer at batch 1 on the\n"
        f"{about['images']} test photographs; latency as a share of the fine-tuned ViT's, all by turns (intervals:\n"
        f"99 % over all points, 95 % of top-1). Energy is {found[0]['energy']}.\n"
        "Planned for 60 % of that latency (^), the same photographs, 95 % interval of the difference: IRET-style has\n"
        f"{'; '.join(pairs)}.\n"
        "The plot ends 14 points below the best; what lost more is in the table.\n\n"
        "![Top-1 against latency](iret_frontier.svg)\n\n"
        + grid(["model", "runtime", "share of ViT/16's latency", "top-1, %", "GMACs", "over its MAC ratio", "mJ"], rows)
        + "\n" + machine(sheet)
    )  # fmt: skip


def latency(sheet: dict[str, Any]) -> str:
    rows = [
        [
            r["kind"], r["of"].split("_patch")[0], f"{r['runtime']} {r['precision']}", ", ".join(map(str, r["kept"])),
            f"{r['latency_ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]", f"{r['macs_ratio']:.3f}",
            f"{r['over_macs']:.2f}",
        ]
        for r in sheet["rows"].values()
    ]  # fmt: skip
    return (
        "## IRET-style: does latency fall as fast as the arithmetic?\n\n"
        "The configurations of our reconstruction, batch 1, random weights, interleaved with the ViT that each is\n"
        "relative to; median, 95 % interval. MACs as deployed, but for what widens tokens and lifts pixels.\n\n"
        + grid(["model", "over", "runtime", "patches kept", "latency ratio", "MAC ratio", "latency over MACs"], rows)
        + "\n" + machine(sheet)
    )  # fmt: skip


def adaptive(sheet: dict[str, Any]) -> str:
    found = sheet["rows"].values()
    line = lambda r: [f"{r['top1']:.2f} [{r['top1_low']:.2f}, {r['top1_high']:.2f}]", f"{r['gmacs']:.3f}",
                      f"{r['gmacs_low']:.3f} to {r['gmacs_high']:.3f}"]  # fmt: skip
    heads = ["top-1, %", "GMACs, mean", "5 % to 95 % of images"]
    drops = [[f"{r['drop']:g}", f"{r['focus']:g}", *line(r)] for r in found if r["kind"] == "thresholds"]
    exits = [[f"{r['sure']:g}", *line(r)] for r in found if r["kind"] == "exits"]
    same = [
        [r["method"] if "IRET" in r["method"] else f"ViT/16, {r['method']}", *line(r)]
        for r in found if r["kind"] == "same counts"
    ]  # fmt: skip
    return (
        "### Thresholds and exits, image by image\n\n"
        f"The same IRET-style model in PyTorch on the {sheet['about']['images']} test photographs, multiply-adds\n"
        "counted as they happen. Thresholds are shares of the mean relevance, the same at all transitions:\n\n"
        + grid(["drop below", "focus from", *heads], drops)
        + "\nNothing dropped, and the first exit taken whose likeliest class has this share (above 1: the last);\n"
        "the share is not chosen on other photographs, so the best of these rows flatters:\n\n"
        + grid(["sure from", *heads], exits)
        + "\nThe counts of the plan for 60 % (^), and the fine-tuned ViT reduced to as many tokens in the same\n"
        "blocks, without training, by dropping (topk), by dropping into one token (evit) and by merging (foveal,\n"
        "which takes at most half of a block's patches and so keeps up to two more):\n\n"
        + grid(["model", *heads], same)
    )  # fmt: skip


def serving(sheet: dict[str, Any]) -> str:
    about, found = sheet["about"], list(sheet["rows"].values())
    rates: dict[float, dict[str, dict[str, Any]]] = {}
    for r in found:
        if r["kind"] in ("free", "fixed"):
            rates.setdefault(r["rate"], {})[r["kind"]] = r
    rows = [
        [f"{rate:.0f}"] + [
            cell
            for r in (at["fixed"], at["free"])
            for cell in (f"{r['p99_ms']:.1f}", "yes" if r["held"] else "no", f"{r['accuracy']:.2f}", str(r["lost"]))
        ]
        for rate, at in sorted(rates.items())
    ]  # fmt: skip
    heads = [f"{head}, {kind}" for kind in ("fixed", "free") for head in ("p99, ms", "held", "right, %", "lost")]
    best = next(r for r in found if r["kind"] == "highest")
    burst = next(r for r in found if r["kind"] == "burst")
    right = rates[best["fixed"]]["fixed"]["accuracy"]
    near = max(rate for rate, at in rates.items() if at["free"]["held"] and at["free"]["accuracy"] >= right - 2)
    back = (
        f"the last answer at a faster point than before it was due {burst['back_s']:.1f} s after its end"
        if burst["came_back"] else "it had not come back when the run ended"
    )  # fmt: skip
    return (
        "## Serving under load\n\n"
        f"`foveate serve` on {about['model']} with {about['points']} operating points, {about['runtime']}\n"
        f"{about['precision']}, one worker; a load generator in a process of its own offers single photographs at\n"
        f"even intervals over loopback ({about['images']} of them, again and again), {about['rounds']} times\n"
        f"{about['seconds']:g} s at each rate, the two servers by turns. A rate is held where 99 % were answered\n"
        f"within {about['slo_ms']:g} ms of when they were due and none was refused. Fixed is point 0, the whole\n"
        f"model; free slides along the frontier. Highest rate held: **{best['fixed']:.0f}** a second fixed; free\n"
        f"**{near:.0f}** at no more than 2 points less right, **{near / best['fixed']:.2f}** times as many, and\n"
        f"{best['free']:.0f} at all. After a burst of {burst['burst']:.0f} a second, back at {burst['low']:.0f}:\n"
        f"{back}; {burst['lost']} lost.\n\n"
        "![Wait and accuracy against the rate](serving.svg)\n\n"
        + grid(["requests a second", *heads], rows) + "\n" + machine(sheet)
    )  # fmt: skip
