"""The tables of token budgets for models that see."""

from typing import Any

import numpy as np

from benchmarks.markdown import grid, machine

OURS, RIVALS = "hired-diverse", ("random", "uniform", "hired", "visionzip")
CONTEST = (0.05, 0.1)  # shares of the tokens at which they meet


def resampled(right: list[int], asked: list[int], seed: int = 0) -> np.ndarray:
    """Accuracy of 4,000 resamples of the canvases, the same ones for every row."""
    picks = np.random.default_rng(seed).integers(0, len(right), (4000, len(right)))
    return np.array(right)[picks].sum(1) / np.array(asked)[picks].sum(1)


def bounds(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def vlm_ranking(sheet: dict[str, Any]) -> str:
    about, rows = sheet["about"], sheet["rows"]
    budgeted = [key for key in rows if key.rpartition(" ")[2].replace(".", "").isdigit()]
    names = list(dict.fromkeys(key.rpartition(" ")[0] for key in budgeted))
    shares = sorted({float(key.rpartition(" ")[2]) for key in budgeted})
    chance = {key: resampled(row["right"], row["asked"]) for key, row in rows.items()}

    def accuracy(key: str) -> str:
        low, high = bounds(chance[key])
        return f"{rows[key]['accuracy']:.1%} [{low:.1%}, {high:.1%}]"

    table, same = [], []
    for name in names:
        found = [f"{name} {share:g}" for share in shares]
        table.append([f"`{name}`", *(accuracy(key) if key in rows else "-" for key in found)])
        same.append([
            f"`{name}`",
            *(f"{rows[key]['agreement']:.1%} / {rows[key]['kl']:.2f}" if key in rows else "-" for key in found),
        ])  # fmt: skip
    beside = ["all tokens", "whole view alone", "blank sheet"]
    kinds = sorted(rows[beside[0]]["kinds"])
    anchors = [
        [key, f"{rows[key]['tokens']:.0f}", accuracy(key), *(f"{rows[key]['kinds'][k]:.0%}" for k in kinds)]
        for key in beside if key in rows
    ]  # fmt: skip
    against = []
    for share in CONTEST:
        ours = f"{OURS} {share:g}"
        for name in (*RIVALS, *(f"{rival}, positions kept" for rival in RIVALS)):
            if ours in rows and (key := f"{name} {share:g}") in rows:
                low, high = bounds(100 * (chance[ours] - chance[key]))
                value = 100 * (rows[ours]["accuracy"] - rows[key]["accuracy"])
                against.append([f"{share:.0%}", f"`{name}`", f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"])
    trained = about.get("trained", {})
    spent = f"trained for {trained['minutes']:g} minutes on {trained['device']}" if trained else "trained by the recipe"
    columns = [f"{share:.0%}" for share in shares]
    return (
        "## Token budgets ranked\n\n"
        f"The small LLaVA-NeXT of `recipes/vlm_small.py` (ViT-Tiny, SmolLM2-135M; {spent}, without dropping): small\n"
        f"photographs and printed words on canvases of 259 tokens, {about['canvases']} canvases of the test split,\n"
        f"{rows[beside[0]]['questions']:,} questions, greedy answers, {about['precision']}. 95 % intervals.\n\n"
        + grid(["", "tokens", "right", *kinds], anchors)
        + "\nRight, by the share of tokens kept, newlines included:\n\n" + grid(["", *columns], table)
        + "\nAnswers that are those of all tokens, and KL divergence of the first token's distribution, in nats:\n\n"
        + grid(["", *columns], same)
        + f"\n`{OURS}` less another, in points, canvases resampled in pairs:\n\n"
        + grid(["tokens", "less", "points"], against) + "\n" + machine(sheet)
    )  # fmt: skip


def vlm_speed(sheet: dict[str, Any]) -> str:
    about, rows = sheet["about"], sheet["rows"]
    table = []
    for row in (r for r in rows.values() if "picture" in r):
        s = row["stages"]
        first = s["encode_ms"] + s["select_ms"] + s["project_ms"] + s["prefill_ms"]
        table.append([
            row["picture"].rpartition(".")[0].replace("_", " "),
            f"{row['tokens']} of {row['all_tokens']}" + (f", encoder {row['encoder']}" if row["encoder"] else ""),
            f"{row['first_ms']:.0f}", f"**{row['ratio']:.3f}** [{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['macs_ratio']:.3f}", f"{row['over_macs']:.2f}", f"{s['encode_ms'] / first:.0%}",
            f"{s['prefill_ms'] / first:.0%}", f"{row['select_of_encode']:.2%}", f"{row['tokens_per_s']:.1f}",
            f"{row['peak_gb']:.2f}",
        ])  # fmt: skip
    limits = [
        [f"{r['limit_ms']:.0f}", str(r["tokens"]), f"{r['ms']:.0f}", f"{r['of_limit']:.3f}", str(r["counts_tried"])]
        for r in rows.values() if "limit_ms" in r
    ]  # fmt: skip
    beside = [r["of_plain_encoder"] for r in rows.values() if r.get("of_plain_encoder")]
    reduced = "" if not beside else (
        "\nWith the encoder's own blocks merging tokens as well, the first token takes "
        + ", ".join(f"{b:.3f}" for b in beside) + " of the same budget's time without.\n"
    )  # fmt: skip
    return (
        "## Token budgets: a scaled LLaVA-NeXT\n\n"
        f"Random weights in {about['precision']}, method `{about['method']}`, PyTorch eager, real pictures, batch 1, "
        f"{about['rounds']} rounds by turns;\n"
        "speed only. The tower has CLIP-L/14's 577 tokens a tile and CLIP-B's width and depth (0.29 of CLIP-L's\n"
        "arithmetic), the language model SmolLM2-360M's shape. Time to the first token from pixels, through\n"
        "`generate`; its ratio to all tokens with a 95 % interval, the ratio of multiply-accumulates, and one over\n"
        "the other. Then, of the time to the first token, the shares of encoder and prefill; what choosing costs, as\n"
        "a share of the encoder; further tokens a second; peak memory of the process.\n\n"
        + grid(
            ["picture", "tokens", "first, ms", "of all", "MACs", "over MACs", "encode", "prefill", "choosing",
             "tokens/s", "peak, GB"], table,
        )
        + reduced
        + "\nA limit in milliseconds, the tokens that `--ttft-ms` finds for it, and the median of 11 new runs:\n\n"
        + grid(["limit, ms", "tokens", "median, ms", "of the limit", "counts tried"], limits) + "\n" + machine(sheet)
    )  # fmt: skip
