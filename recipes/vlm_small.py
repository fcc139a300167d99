"""A small model that sees, for ranking token budgets: a plain Hugging Face LLaVA-NeXT folder, trained here.

    export FOVEATE_DATA=...
    python -m recipes.vlm_small --language SMOLLM2 --out runs/vlm-small                                  # 2 cores, 2 h
    python -m recipes.vlm_small --language SMOLLM2 --out runs/vlm-small --minutes 10 --precision bf16    # a GPU

The tower is ViT-Tiny (augreg in21k_ft_in1k) at 112 pixels, features of blocks 9 and 11 side by side, the language model
SmolLM2-135M-Instruct (a folder, see the data's README), between them an MLP. Nothing is dropped in training: a method
is not to be favoured by what the model has got used to.

Two fifths of the time go to the tower and the MLP alone: every patch is to come out beside the words that name what it
shows, among the embeddings of all answers, and the CLS token beside all that its tile shows, as CLIP's knows its
picture: methods read its attention. Then the language model and the MLP learn to answer all questions about a
canvas, each as if it stood alone behind the picture. Both go by the clock; the learning rate falls with the share of
time used. A run goes on where it was broken off (--resume). What the canvases are: recipes/vlm_canvases.py.

Expected, of 75 minutes on two cores (--batch 4 --precision bf16): of 1,147 questions about the test split 70 % right
with all tokens, 46 % with the whole view alone, 32 % on a blank sheet. What came of it: docs/vlm.md.
"""

import argparse
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader, IterableDataset

from foveate.budgets import sizes
from foveate.files import replacing
from foveate.loading.convert_hf import to_vit
from foveate.loading.load import load
from recipes.vlm_canvases import SIDE, WORDS, Canvas, Photographs, canvas

TILE, GRID = 112, 7
PINPOINTS = [[112, 224], [224, 112], [224, 224], [336, 112], [112, 336]]
LAYERS = [-3, -1]  # behind blocks 9 and 11
IMAGE = "<image>"
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}Question: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %} Answer:"
    "{% else %} {{ m['content'][0]['text'] }}\n{% endif %}{% endfor %}"
)
SAVE_SECONDS = 300
FIRST = 0.4  # of the time: tower and MLP


def archives() -> list[Path]:
    data = os.environ.get("FOVEATE_DATA")
    if not data:
        raise SystemExit("FOVEATE_DATA must name the folder with the photographs and weights")
    return [Path(data) / "imagenette10" / "imagenette10_112.zip", Path(data) / "clothing10" / "clothing10_160.zip"]


def build(language: Path) -> tuple[Any, Any]:
    """The untrained model and its processor."""
    import transformers as hf

    weights = Path(os.environ["FOVEATE_DATA"]) / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    tower = to_vit(load("vit_tiny_patch16_224", weights=weights, img_size=TILE).model)
    tokenizer = hf.AutoTokenizer.from_pretrained(language)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    words = hf.AutoModelForCausalLM.from_pretrained(language, dtype=torch.float32)
    words.resize_token_embeddings(math.ceil(len(tokenizer) / 64) * 64, mean_resizing=False)
    config = hf.LlavaNextConfig(
        vision_config=tower.config, text_config=words.config, image_grid_pinpoints=PINPOINTS,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), vision_feature_layer=LAYERS,
        vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = hf.LlavaNextForConditionalGeneration(config)
    # the host's own tower has a pooler that nothing reads; without it the folder would not be complete
    left = model.model.vision_tower.load_state_dict(tower.state_dict(), strict=False)
    assert not left.unexpected_keys and all(key.startswith("pooler.") for key in left.missing_keys), left
    model.model.language_model.load_state_dict(words.model.state_dict())
    model.tie_weights()
    model.generation_config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer("\n", add_special_tokens=False)["input_ids"][-1]  # ends an answer
    processor = hf.LlavaNextProcessor(
        image_processor=hf.LlavaNextImageProcessorPil(
            size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=PINPOINTS,
            image_mean=[0.5] * 3, image_std=[0.5] * 3,
        ),
        tokenizer=tokenizer, patch_size=16, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        image_token=IMAGE, chat_template=TEMPLATE,
    )  # fmt: skip
    return model, processor


def pixels(processor: Any, canvases: list[Canvas]) -> tuple[Tensor, Tensor]:
    """[B 5 3 112 112] and sizes."""
    seen = processor.image_processor(images=[c.image for c in canvases], return_tensors="pt")
    return seen["pixel_values"], seen["image_sizes"]


def patch_labels(c: Canvas, classes: tuple[str, ...]) -> Tensor:
    """What each of the 5 x 49 patches shows: an index of `classes`, 0 for nothing, -100 for an edge of something."""
    labels = torch.zeros(5, GRID, GRID, dtype=torch.long)
    for tile in range(5):
        zoom = 2 if tile == 0 else 1
        left, top = (0, 0) if tile == 0 else ((tile - 1) % 2 * TILE, (tile - 1) // 2 * TILE)
        for item in c.items:
            box = [(item.box[i] - (left, top)[i % 2]) / zoom / 16 for i in range(4)]
            for row in range(GRID):
                for column in range(GRID):
                    wide = min(box[2], column + 1) - max(box[0], column)
                    high = min(box[3], row + 1) - max(box[1], row)
                    if wide > 0 and high > 0:
                        whole = min(1.0, (box[2] - box[0]) * (box[3] - box[1]))
                        enough = wide * high > 0.3 * whole
                        labels[tile, row, column] = classes.index(item.name) if enough else -100
    return labels.flatten(1)


def encoded(processor: Any, c: Canvas, tokens: int) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and the segment of every token: 0 the picture, n the n-th question. Losses on answers alone."""
    tok = processor.tokenizer
    ids = tok("Question: ", add_special_tokens=False)["input_ids"] + [tok.convert_tokens_to_ids(IMAGE)] * tokens
    labels, segments = [-100] * len(ids), [0] * len(ids)
    for n, (question, answer) in enumerate(c.questions, 1):
        asked = tok(f"\n{question} Answer:", add_special_tokens=False)["input_ids"]
        said = tok(f" {answer}\n", add_special_tokens=False)["input_ids"]
        ids += asked + said
        labels += [-100] * len(asked) + said
        segments += [n] * (len(asked) + len(said))
    return ids, labels, segments


def batch_of(processor: Any, canvases: list[Canvas], pad: int) -> dict[str, Tensor]:
    """All questions about each canvas behind one picture. Each sees the picture and itself, as if it stood alone."""
    tokens = sizes.anyres((SIDE, SIDE), PINPOINTS, tile=TILE, grid=GRID).tokens
    rows = [encoded(processor, c, tokens) for c in canvases]
    length = max(len(ids) for ids, _, _ in rows)
    ids, labels, segments = (
        torch.tensor([row[n] + [fill] * (length - len(row[n])) for row in rows])
        for n, fill in enumerate((pad, -100, 0))
    )
    real = torch.arange(length) < torch.tensor([len(row[0]) for row in rows])[:, None]
    place = torch.arange(length)
    sees = (segments[:, None, :] == 0) | (segments[:, :, None] == segments[:, None, :])
    sees &= (place[None, :] <= place[:, None]) & real[:, None, :]
    # Positions go on behind the picture for every question.
    prefix = int((torch.tensor(rows[0][2]) == 0).sum())
    first = torch.full((len(rows), int(segments.max()) + 1), length).scatter_reduce(
        1, segments, place.expand_as(segments), "amin"
    )
    position = torch.where(segments == 0, place, prefix + place - first.gather(1, segments))
    values, image_sizes = pixels(processor, canvases)
    return {
        "pixel_values": values, "image_sizes": image_sizes, "input_ids": ids, "attention_mask": sees[:, None],
        "position_ids": torch.where(real, position, 0), "labels": labels,
    }  # fmt: skip


class Made(IterableDataset[Any]):
    """Batches of canvases from a number on, made in another process while the model learns."""

    def __init__(self, processor: Any, photographs: Photographs, stage: int, size: int, step: int, pad: int) -> None:
        self.processor, self.photographs, self.stage = processor, photographs, stage
        self.size, self.step, self.pad = size, step, pad
        self.answers = ("nothing", *photographs.classes, *WORDS)

    def __iter__(self) -> Iterator[Any]:
        torch.set_num_threads(1)
        for step in itertools.count(self.step):
            made = [canvas(self.photographs, self.stage, step * self.size + n) for n in range(self.size)]
            if self.stage == 0:
                values, _ = pixels(self.processor, made)
                yield values, torch.stack([patch_labels(c, self.answers) for c in made])
            else:
                yield batch_of(self.processor, made, self.pad)


class Run:
    """Two stages by the clock, saved every five minutes and resumed where they were."""

    optimizer: Any

    def __init__(self, a: argparse.Namespace) -> None:
        self.a = a
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.out = Path(a.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.model, self.processor = build(Path(a.language))
        self.model.to(self.device)
        self.photographs = Photographs(archives(), "train")
        self.pad = self.model.generation_config.pad_token_id
        self.used, self.step, self.stage = 0.0, 0, 0
        self.kept = self.out / "last.pt"
        if a.resume and self.kept.exists():
            self.resume()
        else:
            self.prepare(0)

    def resume(self) -> None:
        held = torch.load(self.kept, map_location=self.device, weights_only=True)
        self.model.load_state_dict(held["model"])
        self.used, self.step, self.stage = held["used"], held["step"], held["stage"]
        self.prepare(self.stage)
        self.optimizer.load_state_dict(held["optimizer"])

    def save(self) -> None:
        held = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "used": self.used,
            "step": self.step, "stage": self.stage,
        }  # fmt: skip
        with replacing(self.kept) as part:
            torch.save(held, part)

    def prepare(self, stage: int) -> None:
        """What learns in a stage, and how fast."""
        core = self.model.model
        groups = (
            [(core.vision_tower, 2e-4), (core.multi_modal_projector, 1e-3)],
            [(core.multi_modal_projector, 3e-4), (core.language_model, 2e-4)],
        )[stage]
        self.model.requires_grad_(False)
        parameters = []
        for part, lr in groups:
            part.requires_grad_(True)
            parameters.append({"params": list(part.parameters()), "lr": lr, "first": lr})
        if stage == 1:
            frozen = self.model.get_input_embeddings()
            frozen.requires_grad_(False)
            core.image_newline.requires_grad_(True)
            parameters.append({"params": [core.image_newline], "lr": 3e-4, "first": 3e-4})
            for group in parameters:
                group["params"] = [p for p in group["params"] if p.requires_grad]
        self.stage = stage
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.98))

    def go(self) -> None:
        whole = self.a.minutes * 60
        ends = (FIRST * whole, whole)
        answers = ("nothing", *self.photographs.classes, *WORDS)
        named = self.embeddings(answers).to(self.device)
        made = self.batches()
        saved = told = time.monotonic()
        while self.used < whole:
            if self.stage == 0 and self.used >= ends[0]:
                self.prepare(1)
                made = self.batches()
            began, end = time.monotonic(), ends[self.stage]
            start = 0.0 if self.stage == 0 else ends[0]
            share = min(1.0, (self.used - start) / (end - start))
            for group in self.optimizer.param_groups:
                group["lr"] = group["first"] * min(1.0, (share + 0.002) / 0.03) * 0.5 * (1 + math.cos(math.pi * share))
            given = next(made)
            loss = self.align(given[0], given[1], named) if self.stage == 0 else self.answer(given)
            if not math.isfinite(loss):
                raise SystemExit(f"the loss is not finite at step {self.step}; {self.kept} is the last good one")
            self.step += 1
            self.used += time.monotonic() - began
            if time.monotonic() - told > 15:
                left = (whole - self.used) / 60
                where = f"{self.used / whole:4.0%} stage {self.stage + 1}, step {self.step}"
                say(f"{where}, loss {loss:.3f}, {left:.0f} min left")
                told = time.monotonic()
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()
        folder = self.out / "model"
        self.model.to(torch.float32).save_pretrained(folder)
        self.processor.save_pretrained(folder)
        record = {"minutes": self.a.minutes, "steps": self.step, "batch": self.a.batch, "device": str(self.device)}
        (folder / "trained.json").write_text(json.dumps(record, indent=1) + "\n")
        say(f"written {folder}")

    def batches(self) -> Iterator[Any]:
        size = self.a.batch * (4 if self.stage == 0 else 1)
        made = Made(self.processor, self.photographs, self.stage, size, self.step, self.pad)
        return iter(DataLoader(made, batch_size=None, num_workers=1, prefetch_factor=2))

    def embeddings(self, answers: tuple[str, ...]) -> Tensor:
        """A direction for each answer: the mean of its tokens' embeddings, [n D]."""
        table = self.model.get_input_embeddings().weight.detach()
        ids = [self.processor.tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in answers]
        return normalize(torch.stack([table[i].mean(0) for i in ids]) - table.mean(0), dim=-1)

    def align(self, values: Tensor, labels: Tensor, named: Tensor) -> float:
        core, labels = self.model.model, labels.flatten(0, 1).to(self.device)  # [tiles 49]
        core.vision_tower.train()
        with self.autocast():
            hidden = core.vision_tower(values.flatten(0, 1).to(self.device), output_hidden_states=True).hidden_states
            shown = core.multi_modal_projector(torch.cat([hidden[n] for n in LAYERS], -1))
        scores = 20 * normalize(shown.float(), dim=-1) @ named.T  # [tiles 50 names]
        weight = torch.ones(len(named), device=self.device)
        weight[0] = 0.1  # most of a canvas is empty
        loss = cross_entropy(scores[:, 1:].flatten(0, 1), labels.flatten(), weight, ignore_index=-100)
        there = torch.zeros(len(labels), len(named), device=self.device).scatter_(1, labels.clamp(min=0), 1.0)
        there[:, 0] = there[:, 1:].sum(1) == 0
        loss = loss + 0.5 * cross_entropy(scores[:, 0], there / there.sum(1, keepdim=True))
        # as long as embeddings of words are, so that the language model meets nothing new
        length = self.model.get_input_embeddings().weight.detach().norm(dim=-1).mean()
        loss = loss + 0.1 * (shown.float().norm(dim=-1) / length - 1).square().mean()
        return self.update(loss)

    def answer(self, made: dict[str, Tensor]) -> float:
        given = {k: v.to(self.device) for k, v in made.items()}
        labels = given.pop("labels")[:, 1:]
        said = labels != -100
        self.model.train()
        self.model.model.vision_tower.eval()
        with self.autocast():
            hidden = self.model.model(**given, use_cache=False).last_hidden_state
            scores = self.model.lm_head(hidden[:, :-1][said])  # of answers alone: a twentieth of all places
        return self.update(cross_entropy(scores.float(), labels[said]))

    def update(self, loss: Tensor) -> float:
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def autocast(self) -> Any:
        kind = torch.bfloat16 if self.a.precision == "bf16" else torch.float32
        return torch.autocast(self.device.type, kind, enabled=self.a.precision == "bf16")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--language", required=True, help="folder of SmolLM2-135M-Instruct")
    args.add_argument("--out", default="runs/vlm-small")
    args.add_argument("--minutes", type=float, default=120)
    args.add_argument("--batch", type=int, default=8, help="canvases a step of the second stage")
    args.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    args.add_argument("--resume", action="store_true")
    a = args.parse_args()
    random.seed(0)
    torch.manual_seed(0)
    Run(a).go()


if __name__ == "__main__":
    main()
