"""Writes docs/benchmarks.md, docs/reliability.md and the README's first screen from results/: no figure is typed."""

import json
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.arithmetic_table import attention_cores, linear_layers
from benchmarks.elastic_table import adaptive, knob, latency, serving
from benchmarks.gate_table import gate
from benchmarks.hf_table import hf_fits
from benchmarks.markdown import cpu_of, grid, machine, outward
from benchmarks.reliability_table import reliability
from benchmarks.vlm_table import vlm_ranking, vlm_speed
from foveate.files import write_text

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
RELIABILITY = DOCS.with_name("reliability.md")
README = Path(__file__).parent.parent / "README.md"


KINDS = ("ViT/16", "ViT/28", "ViTTM 28/28", "ViTTM 32/16")
BUILDS = ("eager fp32", "onnxruntime fp32", "openvino bf16")


def read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def latency_ratio(sheet: dict[str, Any]) -> str:
    kinds = ["one cut to 128", "three blocks", "tome r=13", "pareto"]
    cells: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for r in sheet["rows"].values():
        key = (r["model"], str(r["batch"]), r["runtime"], r["precision"])
        cells.setdefault(key, {})[r["kind"]] = r
    rows = []
    for key, found in sorted(cells.items()):
        row = [" ".join((key[0], f"batch {key[1]}")), f"{key[2]} {key[3]}"]
        for kind in kinds:
            r = found.get(kind)
            row.append(
                "-" if r is None else f"{r['latency_ratio']:.3f} / {r['macs_ratio']:.3f} = **{r['over_macs']:.2f}**"
            )
        rows.append(row)
    return (
        "## Does latency fall as fast as the arithmetic?\n\n"
        "Latency ratio (reduced / dense, interleaved pairs, median) over MAC ratio; below 1 the reduction saves more\n"
        "time than arithmetic. Random weights: speed only. The planner was asked for 0.7 of the dense latency.\n\n"
        + grid(["model", "runtime", *kinds], rows) + "\n" + machine(sheet)
    )  # fmt: skip


def prediction(name: str, sheet: dict[str, Any]) -> str:
    s, p = sheet["rows"].get("summary"), sheet["rows"].get("profile")
    if s is None:
        return ""
    took = "" if p is None else f"; the profile took {p['seconds']:.0f} s for {p['points']} counts"
    return (
        f"- {name.replace('_', ' ')}: median error {s['median_error']:.1%}, "
        f"worst {s['worst_error']:.1%} over {s['count']} random schedules{took}.\n"
    )


def methods(sheet: dict[str, Any]) -> str:
    rows = []
    for r in sheet["rows"].values():
        drop = "-" if r["drop"] is None else f"{r['drop']:+.2f} [{r['drop_low']:+.2f}, {r['drop_high']:+.2f}]"
        rows.append(
            [
                f"{r['level']:g}",
                r["method"],
                f"{r['speedup']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
                f"{r['accuracy']:.1f}",
                drop,
                f"{r['agreement']:.1f}",
                f"{r['kl']:.4f} [{r['kl_low']:.4f}, {r['kl_high']:.4f}]",
                f"{r['gmacs']:.3f}",
            ]
        )
    n = next(iter(sheet["rows"].values()))["images"]
    return (
        "## Every method at the same latency\n\n"
        f"{sheet['about'].get('model')}, {sheet['about'].get('data')}.\n"
        "Single methods reduce in blocks 4, 7 and 10 by one factor. Quality is what the deployed file answered on the\n"
        f"{n} unseen photographs (95 % intervals); the speed-up is over the\n"
        "fastest dense build found (99 % interval).\n\n"
        + grid(["level", "method", "speed-up", "top-1 %", "points lost", "same top-1 %", "KL, nats", "GMACs"], rows)
        + "\n" + machine(sheet)
    )  # fmt: skip


def kl(sheet: dict[str, Any]) -> str:
    about = sheet["about"]
    span = lambda r, key, form: f"[{', '.join(format(v, form) for v in r[key])}]"
    rows = [
        [
            name,
            f"{r['macs_ratio']:.3f}",
            f"{r['kl']:.4f} {span(r, 'kl_interval', '.4f')}",
            f"{100 * r['agreement']:.1f}",
            f"{r['drop_points']:+.2f} {span(r, 'drop_interval', '+.2f')}",
        ]
        for name, r in sheet["rows"].items()
        if "kl" in r
    ]
    return (
        "## KL to the dense model at equal arithmetic\n\n"
        f"{about['model']}; plans searched on {about['planned_on']} photographs, all rows scored on\n"
        f"{about['tested_on']} others in float32 torch (95 % intervals). `foveal` is ours; the others are those\n"
        "of their papers, off the shelf. No plan was searched on the test photographs, but `foveal` was designed\n"
        "on photographs of this set, some of them among these: its rows, and pareto's, may be a little too good.\n\n"
        + grid(["plan", "share of the MACs", "KL, nats", "same top-1 %", "points lost"], rows)
        + "\n"
        + machine(sheet)
    )


def vittm(sheet: dict[str, Any]) -> str:
    kinds = ["ViT, patch 28", "ViTTM 28/28", "ViTTM 32/16"]
    cells: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for r in sheet["rows"].values():
        key = (f"ViT-{r['size'].title()}, batch {r['batch']}", f"{r['runtime']} {r['precision']}", cpu_of(r, sheet))
        cells.setdefault(key, {})[r["kind"]] = r
    show = lambda r: "-" if r is None else f"{r['latency_ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
    rows = [[*key, *(show(found.get(kind)) for kind in kinds)] for key, found in sorted(cells.items())]
    first = next(iter(cells.values()))
    return (
        "## ViTTM against ViT at patch 16\n\n"
        "Latency ratio to the dense ViT (interleaved, median, 95 % interval); random weights: speed only. Published\n"
        "for ViTTM-B, on an unnamed device: 0.442. MAC ratios: "
        + ", ".join(f"{kind} {first[kind]['macs_ratio']:.3f}" for kind in kinds if kind in first)
        + f" ({next(iter(cells))[0].split(',')[0]}).\n\n"
        + grid(["ViT", "runtime", "CPU", *kinds], rows) + "\n" + machine(sheet)
    )  # fmt: skip


def memory_worth(sheet: dict[str, Any], speed: dict[str, Any] | None) -> str:
    """One table a setting: what each model reaches, what it costs."""
    sizes = {"scratch": "imagenette", "tuned": "tiny"}  # of benchmarks.vittm_latency

    def share(r: dict[str, Any], build: str) -> str:
        if r["kind"] == "ViT/16":
            return "1"
        kind = {"ViT/28": "ViT, patch 28"}.get(r["kind"], r["kind"])
        found = None if speed is None else speed["rows"].get(f"{sizes[r['what']]} {build} b1 {kind}")
        return "-" if found is None else f"{found['latency_ratio']:.3f}"

    titles = {
        "scratch": "From scratch on Imagenette (112 pixels, patches half as large, width 96, six blocks)",
        "tuned": "From the real ViT-Tiny on clothing photographs (224 pixels)",
    }
    text = (
        "## What memory is worth\n\n"
        "One recipe for all four of a table, same data and epochs. Top-1 of the best epoch's weights, with Wilson's\n"
        "95 % interval; one line a seed. For Imagenette the epoch is chosen on the images it is judged by, for\n"
        "clothing on others. The last columns are shares of ViT/16's latency at batch 1.\n"
    )
    for what, title in titles.items():
        found = [r for r in sheet["rows"].values() if r["what"] == what]
        if not found:
            continue
        rows = [
            [
                r["kind"], str(r["seed"]), f"{r['tokens']} + {r['memory']}" if r["memory"] else str(r["tokens"]),
                f"{r['top1']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", f"{r['gmacs']:.3f}",
                f"{r['parameters'] / 1e6:.2f}", *(share(r, build) for build in BUILDS),
            ]
            for r in sorted(found, key=lambda r: (KINDS.index(r["kind"]), r["seed"]))
        ]  # fmt: skip
        head = ["model", "seed", "tokens (+ memory)", "top-1, %", "GMACs", "M parameters", *BUILDS]
        text += f"\n{title}, {found[0]['epochs']} epochs, {found[0]['images']:,} images judged:\n\n" + grid(head, rows)
    return text + "\n" + machine(sheet)


def equal(sheet: dict[str, Any]) -> str:
    rows = [
        [
            kind, f"{r['latency_ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]",
            f"{r['top1']:.2f} [{r['top1_low']:.2f}, {r['top1_high']:.2f}]", f"{r['gmacs']:.3f}",
        ]
        for kind, r in sheet["rows"].items()
    ]  # fmt: skip
    about, first = sheet["about"], next(iter(sheet["rows"].values()))
    deployed = f"{first['runtime']} {first['precision']}"
    return (
        "## Memory, larger patches, or pruning?\n\n"
        f"The fine-tuned models of the table above (seed {about['seed']}), beside the fine-tuned ViT/16, pruned\n"
        f"without training to the latency of each; plans searched on 96 of {about['planned_on']} validation\n"
        f"photographs. Every row is what the deployed file ({deployed}, batch 1) answers on the\n"
        f"{about['images']} test photographs (95 % intervals).\n\n"
        + grid(["model", "share of ViT/16's latency", "top-1, %", "GMACs"], rows) + "\n" + machine(sheet)
    )  # fmt: skip


def times(r: dict[str, Any]) -> str:
    """How many times as fast as the dense ViT, with its interval."""
    return f"{1 / r['latency_ratio']:.2f} [{1 / r['high']:.2f}, {1 / r['low']:.2f}]"


def masks(speed: dict[str, Any] | None, quality: dict[str, Any] | None) -> str:
    text = "## Segmentation\n"
    if speed:
        rows = [
            [
                f"ViT-{r['size'].title()}", f"{r['runtime']} {r['precision']}", r["kind"],
                times(r), f"{r['macs_ratio']:.3f}",
            ]
            for r in speed["rows"].values()
        ]  # fmt: skip
        text += (
            "\nWindows a second of a Segmenter on ViTTM over one on the ViT (512 pixels, 504 for patches of 28; 150\n"
            "classes; batch 1, interleaved, median, 95 % interval); random weights: speed only. Published for base:\n"
            "1.94 (GPU, device unknown).\n\n"
            + grid(["against", "runtime", "Segmenter on", "FPS ratio", "MAC ratio"], rows) + "\n" + machine(speed)
        )  # fmt: skip
    if quality:
        rows = [
            [
                r["kind"],
                f"{r['miou']:.2f} [{r['low']:.2f}, {r['high']:.2f}]",
                f"{r['gmacs']:.2f}",
                f"{r['minutes']:.0f}",
            ]
            for r in quality["rows"].values()
            if "miou" in r
        ]
        timed = [r for r in quality["rows"].values() if "latency_ratio" in r]
        text += (
            "\nCamVid, 11 classes, backbones from the real ViT-Tiny, the same head and epochs; mean IoU on the "
            f"{next(iter(quality['rows'].values()))['images']} test photographs, sliding\nwindows of 336 pixels, 95 % "
            "interval over photographs:\n\n"
            + grid(["Segmenter on", "mIoU, %", "GMACs a window", "minutes"], rows)
        )  # fmt: skip
        if timed:
            text += (
                "\nPhotographs a second of those on ViTTM over those on the ViT (batch 1, interleaved, median, 95 % "
                "interval):\n\n"
                + grid(["Segmenter on", "runtime", "FPS ratio", "MAC ratio"], [
                    [r["kind"], f"{r['runtime']} {r['precision']}", times(r), f"{r['macs_ratio']:.3f}"] for r in timed
                ])
            )  # fmt: skip
        text += "\n" + machine(quality)
    return text


def fitted(sheet: dict[str, Any]) -> str:
    """What one fit gained, in the words of the README's first screen."""
    s, lost, ms, m = sheet["speedup"], sheet["cost"], sheet["latency_ms"], sheet["machine"]
    low, high = outward(s["low"], s["high"])
    base = next(row for row in sheet["ladder"] if row["role"] == "any")
    return fill(
        f"ViT-Tiny ({sheet['model'].partition(', ')[2]}) on {m['cpu']}, {m['threads']} cores, batch 1: "
        f"**{s['value']:.3f} times faster** than the fastest dense build that keeps the budget ({base['runtime']} "
        f"{base['precision']}; {ms['dense']['p50']:.1f} to {ms['plan']['p50']:.1f} ms), 99 % interval {low:.3f} to "
        f"{high:.3f} over {s['n']} pairs, with {abs(lost['value']):.2f} points of top-1 "
        f"{'gained' if lost['value'] < 0 else 'lost'} (95 % interval of what is lost: {lost['low']:.1f} to "
        f"{lost['high']:.1f}, on {lost['n']} photographs that no search has seen). The whole fit, no "
        f"training, took {sheet['seconds'] / 60:.0f} minutes on that machine.",
        width=120,
    )


def readme() -> str:
    """README.md with that between its marks."""
    text, sheet = README.read_text(encoding="utf-8"), read("fitted")
    begin, end = "<!-- fitted: written by benchmarks.table -->\n", "<!-- end -->"
    at, to = text.index(begin) + len(begin), text.index(end)
    return text if sheet is None else text[:at] + fitted(sheet) + "\n" + text[to:]


def render() -> str:
    parts = [
        "# Benchmarks\n\nGenerated by `python -m benchmarks.table` from `benchmarks/results/`;\n"
        "`make bench` measures again. "
        "Absolute times are those of one shared machine and mean little elsewhere: read the ratios.\n"
    ]
    if sheet := read("latency_ratio"):
        parts.append(latency_ratio(sheet))
    found = [
        (p.stem.removeprefix("prediction_"), json.loads(p.read_text()))
        for p in sorted(RESULTS.glob("prediction_*.json"))
    ]
    if found:
        parts.append("## Is the predicted latency right?\n\n" + "".join(prediction(n, s) for n, s in found) + "\n"
                     + machine(found[0][1]))  # fmt: skip
    if sheet := read("vit_tiny_methods"):
        parts.append(methods(sheet))
    if sheet := read("vit_tiny_kl"):
        parts.append(kl(sheet))
    if sheet := read("gate"):
        parts.append(gate(sheet))
    if sheet := read("vittm_latency"):
        parts.append(vittm(sheet))
    if sheet := read("vittm_accuracy"):
        parts.append(memory_worth(sheet, read("vittm_latency")))
    if sheet := read("vittm_equal"):
        parts.append(equal(sheet))
    speed, quality = read("segmentation_speed"), read("camvid")
    if speed or quality:
        parts.append(masks(speed, quality))
    if sheet := read("iret_latency"):
        parts.append(latency(sheet))
    if sheet := read("iret_frontier"):
        parts.append(knob(sheet))
    if sheet := read("iret_adaptive"):
        parts.append(adaptive(sheet))
    if sheet := read("serving"):
        parts.append(serving(sheet))
    if sheet := read("vlm_speed"):
        parts.append(vlm_speed(sheet))
    if sheet := read("vlm_ranking"):
        parts.append(vlm_ranking(sheet))
    if sheet := read("hf_fits"):
        parts.append(hf_fits(sheet))
    if sheet := read("linear_layers"):
        parts.append(linear_layers(sheet))
    if sheet := read("attention_cores"):
        parts.append(attention_cores(sheet))
    return "\n".join(parts)


def reliable() -> str:
    """docs/reliability.md."""
    sheet = read("reliability")
    assert sheet is not None, "run: make campaign"
    return reliability(sheet)


if __name__ == "__main__":
    write_text(DOCS, render())
    write_text(RELIABILITY, reliable())
    write_text(README, readme())
