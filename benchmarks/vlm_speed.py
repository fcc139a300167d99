"""Token budgets on a scaled LLaVA-NeXT: time to the first token, tokens a second and memory, on this CPU.

    FOVEATE_DATA=... python -m benchmarks.vlm_speed

Random weights, real photographs and documents (hires/): speed only. The tower has CLIP-L/14's grid at 336 px (577
tokens a tile) and CLIP-B's width and depth, 0.29 of CLIP-L's multiply-accumulates; the language model is of
SmolLM2-360M's shape. All budgets of a picture take turns. The predicted ratio counts multiply-accumulates of encoder,
projector and prefill, causal attention at its half.
"""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

import foveate.vlm
from benchmarks.common import Sheet, data_folder, say
from foveate.budgets import Budget, count
from foveate.hardware.device import default_threads
from foveate.hardware.timer import busy, speedup
from foveate.vlm.limits import within_limit
from foveate.vlm.measuring import first_token_ms, peak_bytes, stages
from foveate.vlm.towers import ReducedTower

PICTURES = ("photo_truck_1800x1200.jpg", "doc_magazine_page_3312x2550.tif", "doc_cord_receipt_864x1296.png")
CONFIGS = ((1.0, None), (0.4, None), (0.2, None), (0.1, None), (0.2, "tome:40"))  # share, encoder's own blocks
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
IMAGE, TEXT = 49_000, 60
TOWER = {"width": 768, "depth": 12, "heads": 12, "mlp": 3072}
LANGUAGE = {"width": 960, "depth": 32, "heads": 15, "kv": 5, "mlp": 2560}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build(precision: str) -> Any:
    import transformers as hf

    torch.manual_seed(0)
    t, l = TOWER, LANGUAGE
    vision = hf.CLIPVisionConfig(
        hidden_size=t["width"], intermediate_size=t["mlp"], num_hidden_layers=t["depth"],
        num_attention_heads=t["heads"], image_size=336, patch_size=14,
    )  # fmt: skip
    text = hf.LlamaConfig(
        vocab_size=49_152, hidden_size=l["width"], intermediate_size=l["mlp"], num_hidden_layers=l["depth"],
        num_attention_heads=l["heads"], num_key_value_heads=l["kv"], max_position_embeddings=8192,
    )  # fmt: skip
    config = hf.LlavaNextConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=True,
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config).to(PRECISIONS[precision]).eval()


def question(model: Any, picture: str) -> dict[str, Any]:
    import transformers as hf

    processor = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=PINPOINTS
    )
    image = Image.open(data_folder() / "hires" / picture).convert("RGB")
    seen = processor(images=[image], return_tensors="pt")
    tokens = foveate.vlm.family_of(model).tiling((image.height, image.width)).tokens
    lot = torch.Generator().manual_seed(0)
    words = torch.randint(5, IMAGE, (TEXT,), generator=lot)
    ids = torch.cat([words[:20], torch.full((tokens,), IMAGE), words[20:]])[None]
    return {
        "pixel_values": seen["pixel_values"].to(model.dtype),
        "image_sizes": seen["image_sizes"],
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }


def macs(tiles: int, kept: int, tower: ReducedTower | None) -> dict[str, float]:
    """Multiply-accumulates of a question by stage."""
    t, l, n = TOWER, LANGUAGE, 577
    counts = [n] * t["depth"] if tower is None else [n, *tower.reduced.schedule.after][: tower.last + 1]
    block = sum(
        4 * n * t["width"] ** 2 + 2 * n * n * t["width"] + 2 * after * t["width"] * t["mlp"]
        for n, after in zip(counts, [*counts[1:], counts[-1]], strict=True)
    )
    encode = tiles * (block + 576 * 3 * 14 * 14 * t["width"])
    length, kv = kept + TEXT, l["kv"] / l["heads"]
    layer = length * ((2 + 2 * kv) * l["width"] ** 2 + 3 * l["width"] * l["mlp"]) + length**2 * l["width"]
    prefill = l["depth"] * layer + l["width"] * 49_152
    return {
        "encode": float(encode),
        "project": float(kept * (t["width"] * l["width"] + l["width"] ** 2)),
        "prefill": float(prefill),
    }


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--fresh", action="store_true")
    args.add_argument("--rounds", type=int, default=9)
    args.add_argument("--method", default="hired")
    args.add_argument("--precision", default="bf16", choices=list(PRECISIONS))
    a = args.parse_args()
    for note in (load := busy()).notes:
        say(f"note: {note}")
    torch.set_num_threads(default_threads())
    sheet = Sheet(
        "vlm_speed", fresh=a.fresh, rounds=a.rounds, threads=default_threads(), precision=a.precision,
        method=a.method, weights="random", tower=TOWER, language=LANGUAGE, text_tokens=TEXT, notes=list(load.notes),
    )  # fmt: skip
    model = build(a.precision)
    foveate.vlm.apply(model, 1.0, a.method)
    for picture in PICTURES:
        if all(key(picture, config) in sheet.value["rows"] for config in CONFIGS):
            continue
        rows = by_turns(model, question(model, picture), a.rounds)
        for config, row in rows.items():
            sheet.row(key(picture, config), lambda row=row, picture=picture: {"picture": picture, **row})
    limits(model, question(model, PICTURES[0]), sheet)


Config = tuple[float, str | None]


def key(picture: str, config: Config) -> str:
    return f"{picture} {config[0]:g}" + (f" {config[1]}" if config[1] else "")


@torch.no_grad()
def by_turns(model: Any, asked: dict[str, Any], rounds: int) -> dict[Config, dict[str, Any]]:
    applied = foveate.vlm.applied_to(model)
    families: dict[str | None, Any] = {None: applied.family}
    for _, encoder in CONFIGS:
        if encoder not in families:
            families[encoder] = foveate.vlm.family_of(model)
            families[encoder].reduce_encoder(encoder)
    (tiling,) = applied.family.tilings(asked)
    kept = {config: count(tiling, config[0]) for config in CONFIGS}
    for config in CONFIGS:
        first_token_ms(model, asked, kept[config], family=families[config[1]])
    ms: dict[Config, list[float]] = {config: [] for config in CONFIGS}
    lot = np.random.default_rng(0)
    for _ in range(rounds):
        for n in lot.permutation(len(CONFIGS)):
            config = CONFIGS[n]
            ms[config].append(first_token_ms(model, asked, kept[config], family=families[config[1]]))
    all_of_it: Config = CONFIGS[0]
    whole = sum(macs(tiling.tiles + 1, kept[all_of_it], None).values())
    rows = {}
    for config in CONFIGS:
        share, encoder = config
        family, budget = families[encoder], Budget(tokens=kept[config])
        split = [stages(family, applied.method, budget, asked, new=8) for _ in range(3)]
        parts = {name: median(getattr(s, name) for s in split) for name in split[0].__dataclass_fields__}
        applied.family, applied.budget = family, budget
        peak = peak_bytes(lambda: model.generate(**asked, max_new_tokens=4, do_sample=False), model.device)
        applied.family = families[None]
        against: Config = (share, None) if encoder else all_of_it
        faster = speedup(np.array(ms[all_of_it]), np.array(ms[config]), level=0.95)
        beside = speedup(np.array(ms[against]), np.array(ms[config]), level=0.95)
        needed = macs(tiling.tiles + 1, kept[config], family.tower)
        rows[config] = {
            "share": share, "encoder": encoder, "tokens": kept[config], "all_tokens": tiling.tokens,
            "first_ms": median(ms[config]), "ratio": 1 / faster.value, "low": 1 / faster.high, "high": 1 / faster.low,
            "of_plain_encoder": 1 / beside.value if encoder else None,
            "macs": needed, "macs_ratio": sum(needed.values()) / whole,
            "over_macs": 1 / faster.value / (sum(needed.values()) / whole),
            "stages": parts, "select_of_encode": parts["select_ms"] / parts["encode_ms"],
            "tokens_per_s": 1000 / parts["decode_ms"], "peak_gb": peak / 1e9,
        }  # fmt: skip
    return rows


def limits(model: Any, asked: dict[str, Any], sheet: Sheet) -> None:
    """Five limits between what one token takes and what all take: the tokens found, and the median of new runs."""
    applied = foveate.vlm.applied_to(model)
    (tiling,) = applied.family.tilings(asked)
    lowest, highest = (median(first_token_ms(model, asked, n) for _ in range(5)) for n in (1, tiling.tokens))
    for share in (0.15, 0.3, 0.5, 0.7, 0.9):
        limit = lowest + share * (highest - lowest)

        def row(limit: float = limit, share: float = share) -> dict[str, Any]:
            measure: Callable[[int, int], list[float]] = lambda n, times: [
                first_token_ms(model, asked, n) for _ in range(times)
            ]
            found = within_limit(measure, limit, tiling.tokens)
            assert found.tokens is not None
            again = [first_token_ms(model, asked, found.tokens) for _ in range(11)]
            return {
                "limit_ms": limit, "tokens": found.tokens, "counts_tried": len(found.seen), "ms": median(again),
                "of_limit": median(again) / limit,
            }  # fmt: skip

        sheet.row(f"limit {share:g}", row)


if __name__ == "__main__":
    main()
