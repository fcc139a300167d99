"""The tables of token budgets for models that see."""

from typing import Any

from benchmarks.markdown import grid, machine


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
