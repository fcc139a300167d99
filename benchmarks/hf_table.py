"""The table of fits of Hugging Face's encoders."""

from typing import Any

from benchmarks.markdown import grid, machine, outward


def hf_fits(sheet: dict[str, Any]) -> str:
    table = []
    for kind, row in sheet["rows"].items():
        speed, cost = row["speedup"], row["cost"]
        base = next((r for r in row["ladder"] or () if r["role"] == "any"), None)
        beside = "-" if base is None else f"{base['runtime']} {base['precision']}"
        if speed is None:
            faster = "nothing faster"
        else:
            low, high = outward(speed["low"], speed["high"])
            faster = f"**{speed['value']:.3f}** [{low:.3f}, {high:.3f}]"
        lost = "-" if cost is None else (
            f"{cost['value']:+.2f} [{cost['low']:+.2f}, {cost['high']:+.2f}], {cost['n']}"
        )  # fmt: skip
        table.append([f"`{kind}`", row["photographs"], beside, faster, lost, f"{row['seconds'] / 60:.0f}"])
    return (
        "## Fits of Hugging Face's encoders\n\n"
        "`foveate fit FOLDER` on folders of transformers', made from the real ViT-Tiny (`benchmarks/hf_fits.py`): the\n"
        "classifier, and its blocks without a class token in SigLIP's form, an embedding whose pooling head averages.\n"
        "Speed over the fastest dense build that keeps the budget, 99 % interval; points of top-1, or of kNN\n"
        "accuracy, lost on photographs that no search has seen, with a 95 % interval and their number.\n\n"
        + grid(["", "photographs", "against", "faster", "points lost", "minutes"], table) + "\n" + machine(sheet)
    )  # fmt: skip
