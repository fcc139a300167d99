"""Methods of token budgets, ranked on a model that sees: FOVEATE_DATA=... python -m benchmarks.vlm_ranking MODEL

MODEL is the folder that `recipes/vlm_small.py` wrote. Canvases of the test split, all questions about each, answered
greedily, each question alone behind the picture. Every row has what the model gets right, how many answers are those
of all tokens, and KL(all tokens || kept) of the distribution of the answer's first token. Beside the methods stand all
tokens, a blank sheet in the canvas's place, and the whole view alone. Ours and its rivals meet once more on as many
canvases as tell them apart (--contest), at 5 and 10 %.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import foveate.vlm
from benchmarks.common import Sheet, say
from foveate.budgets import Budget
from foveate.budgets._base import BudgetMethod, Sight, cells_of
from foveate.budgets.registered import BUDGETS
from foveate.hardware.device import default_threads
from foveate.vlm.applying import reduce
from recipes.vlm_canvases import SIDE, Canvas, Photographs, canvas, kind
from recipes.vlm_small import archives

SEED = 10  # of the canvases; training has other numbers, and other photographs
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
LONGEST = 6  # tokens of an answer
WHOLE = 49  # tokens of the whole view
OURS, RIVALS = "hired-diverse", ("random", "uniform", "hired", "visionzip")
CONTEST = (0.05, 0.1)


class WholeView(BudgetMethod):
    """The whole view alone."""

    def order(self, sight: Sight, tokens: int) -> Tensor:
        return cells_of(sight.tiling)[0]


@dataclass(frozen=True)
class Said:
    """Answers about one canvas, and the log-probabilities [Q V] of their first tokens."""

    answers: list[str]
    first: Tensor
    tokens: int  # of the picture, kept


class Asker:
    """Asks a model all questions about a picture at once, behind one pass over the picture."""

    def __init__(self, folder: Path, precision: str) -> None:
        from foveate.vlm.loading import load

        self.model, self.processor = load(str(folder), precision=precision)
        self.family = foveate.vlm.family_of(self.model)
        self.tokenizer = self.processor.tokenizer
        self.end = self.tokenizer("\n", add_special_tokens=False)["input_ids"][-1]

    def seen(self, image: Image.Image) -> dict[str, Tensor]:
        given = dict(self.processor(images=[image], text="Question: <image>", return_tensors="pt"))
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        return given

    @torch.no_grad()
    def ask(self, given: dict[str, Tensor], questions: Sequence[str], method: BudgetMethod, budget: Budget) -> Said:
        full = given["input_ids"].shape[1]
        reduced = reduce(self.family, method, budget, given, always=True)
        assert reduced is not None
        out = self.model(**reduced.inputs, use_cache=True, logits_to_keep=1)
        length = reduced.inputs["input_ids"].shape[1]
        asked = [self.tokenizer(f"\n{q} Answer:", add_special_tokens=False)["input_ids"] for q in questions]
        wide = max(map(len, asked))
        ids = torch.tensor([[self.end] * (wide - len(row)) + row for row in asked])
        real = torch.tensor([[0] * (wide - len(row)) + [1] * len(row) for row in asked])
        mask = torch.cat([torch.ones(len(asked), length, dtype=torch.long), real], 1)
        start = full if method.positions == "original" else length
        position = (start + real.cumsum(1) - 1).clamp(min=0)
        cache = out.past_key_values
        cache.batch_repeat_interleave(len(asked))
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        first = out.logits[:, -1].float().log_softmax(-1)
        said = [first.argmax(-1)]
        for _ in range(LONGEST - 1):
            if bool((torch.stack(said) == self.end).any(0).all()):
                break
            mask = torch.cat([mask, mask.new_ones(len(asked), 1)], 1)
            position = position[:, -1:] + 1
            out = self.model(
                input_ids=said[-1][:, None], attention_mask=mask, position_ids=position, past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
            said.append(out.logits[:, -1].argmax(-1))
        rows = torch.stack(said, 1).tolist()
        answers = [
            self.tokenizer.decode(row[: row.index(self.end)] if self.end in row else row).strip() for row in rows
        ]
        return Said(answers, first, len(reduced.kept[0].rows))


def conditions(methods: Sequence[str]) -> dict[str, tuple[BudgetMethod, Budget]]:
    rows: dict[str, tuple[BudgetMethod, Budget]] = {"whole view alone": (WholeView(), Budget(tokens=WHOLE))}
    for share in SHARES:
        for name in methods:
            rows[f"{name} {share:g}"] = (BUDGETS[name](), Budget(ratio=share))
    for share in SHARES:
        for name in ("hired", "hired-diverse"):
            rows[f"{name}, positions kept {share:g}"] = (BUDGETS[name](positions="original"), Budget(ratio=share))
    return rows


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", type=Path)
    args.add_argument("--canvases", type=int, default=60)
    args.add_argument("--contest", type=int, default=240, help="canvases on which ours meets its rivals")
    args.add_argument("--precision", default="bf16")
    args.add_argument("--method", action="append", choices=sorted(BUDGETS))
    args.add_argument("--first", action="store_true", help="all tokens, a blank sheet and the whole view, no method")
    args.add_argument("--fresh", action="store_true")
    a = args.parse_args()
    torch.set_num_threads(default_threads())
    asker, photographs = Asker(a.model, a.precision), Photographs(archives(), "val")
    made = [canvas(photographs, SEED, n) for n in range(a.canvases)]
    say(f"{a.canvases} canvases, {sum(len(c.questions) for c in made)} questions")
    everything = (BUDGETS["hired"](), Budget(ratio=1.0))
    reference = asked_of(asker, made, *everything)
    facts: dict[str, Any] = {"canvases": a.canvases, "seed": SEED, "precision": a.precision}
    if (a.model / "trained.json").exists():
        import json

        facts["trained"] = json.loads((a.model / "trained.json").read_text())
    if a.first:
        for name, row in {
            "all tokens": judged(made, reference, reference),
            "blank sheet": judged(made, asked_of(asker, made, *everything, blank=True), reference),
            "whole view alone": judged(made, asked_of(asker, made, WholeView(), Budget(tokens=WHOLE)), reference),
        }.items():
            say(f"{name}: {row['accuracy']:.3f}, {row['kinds']}")
        return
    sheet = Sheet("vlm_ranking", fresh=a.fresh, **facts)
    sheet.row("all tokens", lambda: judged(made, reference, reference))
    sheet.row("blank sheet", lambda: judged(made, asked_of(asker, made, *everything, blank=True), reference))
    for name, (method, budget) in conditions(a.method or sorted(BUDGETS)).items():
        sheet.row(name, lambda m=method, b=budget: judged(made, asked_of(asker, made, m, b), reference))
    if a.contest:
        more = [canvas(photographs, SEED, n) for n in range(a.contest)]
        reference += asked_of(asker, more[len(made) :], *everything)
        for share in CONTEST:
            for name in (OURS, *RIVALS):
                method, budget = BUDGETS[name](), Budget(ratio=share)
                sheet.row(
                    f"contest {name} {share:g}",
                    lambda m=method, b=budget: judged(more, asked_of(asker, more, m, b), reference[: len(more)]),
                )


def asked_of(
    asker: Asker, made: Sequence[Canvas], method: BudgetMethod, budget: Budget, *, blank: bool = False
) -> list[Said]:
    said = []
    for c in made:
        image = Image.new("RGB", (SIDE, SIDE), c.image.getpixel((0, 0))) if blank else c.image  # type: ignore[arg-type]
        said.append(asker.ask(asker.seen(image), [q for q, _ in c.questions], method, budget))
    return said


def judged(made: Sequence[Canvas], said: Sequence[Said], reference: Sequence[Said]) -> dict[str, Any]:
    """Figures of one condition; `right` by canvas, so that differences between rows can be told with intervals."""
    right, asked, same, kl = [], [], 0, 0.0
    kinds: dict[str, list[int]] = {}
    for c, mine, all_of_it in zip(made, said, reference, strict=True):
        hits = [answer == truth for answer, (_, truth) in zip(mine.answers, c.questions, strict=True)]
        for (question, _), hit in zip(c.questions, hits, strict=True):
            kinds.setdefault(kind(question), []).append(hit)
        right.append(sum(hits))
        asked.append(len(hits))
        same += sum(a == b for a, b in zip(mine.answers, all_of_it.answers, strict=True))
        kl += float((all_of_it.first.exp() * (all_of_it.first - mine.first)).sum())
    total = sum(asked)
    return {
        "tokens": math.fsum(s.tokens for s in said) / len(said), "questions": total, "accuracy": sum(right) / total,
        "agreement": same / total, "kl": kl / total, "kinds": {k: sum(v) / len(v) for k, v in sorted(kinds.items())},
        "right": right, "asked": asked,
    }  # fmt: skip


if __name__ == "__main__":
    main()
