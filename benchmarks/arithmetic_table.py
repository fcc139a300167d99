"""The tables of linear layers and of attention by every arithmetic."""

from typing import Any

from benchmarks.markdown import grid, machine, outward

KINDS = (
    "fp32", "bf16", "int8", "shift, floats", "shift, whole numbers", "onnxruntime fp32", "onnxruntime int8",
    "MatMulNBits 8", "MatMulNBits 4", "MatMulNBits 2", "shift, literally",
)  # fmt: skip
PEAK = {"fp32": "fp32", "bf16": "bf16", "int8": "int8", "shift, floats": "bf16", "shift, whole numbers": "int8"}


def linear_layers(sheet: dict[str, Any]) -> str:
    found = [r for key, r in sheet["rows"].items() if key != "peaks"]
    peaks = sheet["rows"]["peaks"]["gmac"]
    sizes = list(dict.fromkeys(r["size"] for r in found))
    rows = list(dict.fromkeys(r["rows"] for r in found))
    parts = []
    for size in sizes:
        table = []
        for kind in KINDS:
            mine = {r["rows"]: r for r in found if r["size"] == size and r["kind"] == kind}
            if not mine:
                continue
            kib = next(iter(mine.values()))["bytes"]
            size_text = "-" if kib is None else f"{kib / 1024:,.0f}"
            table.append([kind, size_text, *(_time(mine.get(n), peaks, kind) for n in rows)])
        head = ["", "KiB", *(f"{n:,} row{'' if n == 1 else 's'}" for n in rows)]
        parts.append(f"ViT-{size}:\n\n" + grid(head, table))
    told = ", ".join(f"{name} {value:,.0f}" for name, value in peaks.items())
    return (
        "## Linear layers by every arithmetic\n\n"
        "The first layer of an MLP, random weights (`benchmarks/linear_layers.py`). Milliseconds, and in brackets the\n"
        "share of this machine's measured peak for that type; OpenVINO unless another is named, builds of one runtime\n"
        "timed by turns. KiB: the file's weights. Shift layers are `pot4`, as deployed: `floats` in a bf16 build,\n"
        "`whole numbers` in an int8 build. MatMulNBits holds uniform weights of so many bits, blocks of 32: what such\n"
        "a layer would take where its codes fit. `literally` shifts and adds integers.\n\n"
        + "\n".join(parts) + "\n" + _over_int8(found, rows)
        + f"\nMeasured peaks in GMAC/s: {told}. " + machine(sheet)
    )  # fmt: skip


def _time(row: dict[str, Any] | None, peaks: dict[str, float], kind: str) -> str:
    if row is None:
        return "-"
    share = f" ({row['gmac'] / peaks[PEAK[kind]]:.0%})" if kind in PEAK and PEAK[kind] in peaks else ""
    return f"{row['ms']:.3g}{share}"


def _over_int8(found: list[dict[str, Any]], rows: list[int]) -> str:
    table = []
    for size in dict.fromkeys(r["size"] for r in found):
        mine = {r["rows"]: r for r in found if r["size"] == size and r["kind"] == "shift, whole numbers"}
        cells = []
        for n in rows:
            low, high = outward(mine[n]["low"], mine[n]["high"], 2)
            cells.append(f"{mine[n]['over_int8']:.2f} [{low:.2f}, {high:.2f}]")
        table.append([f"ViT-{size}", *cells])
    return "The shift layer in whole numbers over the int8 layer, time, 95 % interval:\n\n" + grid(
        ["", *(f"{n:,}" for n in rows)], table
    )


def attention_cores(sheet: dict[str, Any]) -> str:
    found = list(sheet["rows"].values())
    cores = [r for r in found if "tokens" in r]
    kinds = ("softmax", "sigmoid", "hashed_linear")
    table = []
    for tokens in dict.fromkeys(r["tokens"] for r in cores):
        for where in dict.fromkeys(r["where"] for r in cores if r["tokens"] == tokens):
            mine = {r["kind"]: r for r in cores if (r["tokens"], r["where"]) == (tokens, where)}
            table.append([f"{tokens:,}", where, *(_core(mine.get(kind)) for kind in kinds)])
    models = []
    for model in dict.fromkeys(r["model"] for r in found if "model" in r):
        for where in dict.fromkeys(r["where"] for r in found if r.get("model") == model):
            mine = {r["kind"]: r for r in found if (r.get("model"), r["where"]) == (model, where)}
            models.append([model, where, *(_core(mine.get(kind)) for kind in kinds)])
    return (
        "## Attention by three kinds\n\n"
        "Between the projections, six heads of 64 channels, one image, random values\n"
        "(`benchmarks/attention_cores.py`): milliseconds, and how many times faster than softmax with a 95 %\n"
        "interval, by turns in one process; memory is what the first call adds, in MiB, eager in fp32.\n\n"
        + grid(["tokens", "", *kinds], table)
        + "\nWhole models, random weights:\n\n"
        + grid(["model", "", *kinds], models) + "\n" + machine(sheet)
    )  # fmt: skip


def _core(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if "mib" in row:
        return f"{row['mib']:,.0f} MiB"
    if row["kind"] == "softmax":
        return f"{row['ms']:.3g}"
    low, high = outward(row["low"], row["high"], 2)
    return f"{row['ms']:.3g}, {row['faster']:.2f} [{low:.2f}, {high:.2f}]"
