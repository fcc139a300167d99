"""Methods of token budgets, ranked on a model that sees: FOVEATE_DATA=... python -m benchmarks.vlm_ranking MODEL

MODEL is the folder that `recipes/vlm_small.py` wrote. Canvases of the test split, all questions about each, answered
greedily, each question alone behind the picture. Every row has what the model gets right, how many answers are those
of all tokens, and KL(all tokens || kept) of the distribution of the answer's first token. Beside the methods stand all
tokens, a blank sheet in the canvas's place, and the whole view alone. Several processes may share the work by --method.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import foveate.vlm
from benchmarks.common import Sheet, say
from benchmarks.vlm_table import CONTEST, OURS, RIVALS
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
END = 0  # any token, in the place of the one that is asked for
WHOLE = 49  # tokens of the whole view


class WholeView(BudgetMethod):
    """The whole view alone."""

    def order(self, sight: Sight, tokens: int) -> Tensor:
        return cells_of(sight.tiling)[0]


@dataclass(frozen=True)
class Said:
    """What a model says about one canvas, a value a question, and the log-probabilities [Q V] of first tokens."""

    right: list[bool]
    same: list[bool]  # as with all tokens
    first: Tensor
    tokens: int  # of the picture, kept


@dataclass(frozen=True)
class Asked:
    """A canvas as it is asked: all questions behind one picture, each as if it stood alone.

    Behind a question stand its true answer and the one that all tokens gave, neither of which sees the other. A greedy
    answer is one of them where its every token is the likeliest behind those before it.
    """

    given: dict[str, Tensor]
    ids: Tensor  # [1 L]
    sees: Tensor  # [L L] bool
    place: Tensor  # [L], from the end of the picture
    last: list[int]  # of every question the last token
    true: list[tuple[int, ...]]  # answers, as ids
    before: list[dict[tuple[int, ...], list[int]]]  # of a question and an answer: the places that predict its tokens


class Asker:
    """Asks a model all questions about a picture at once, behind one pass over the picture."""

    def __init__(self, folder: Path, precision: str) -> None:
        from foveate.vlm.loading import load

        self.model, self.processor = load(str(folder), precision=precision)
        self.family = foveate.vlm.family_of(self.model)
        self.tokenizer = self.processor.tokenizer

    def ids_of(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def questions(self, c: Canvas, image: Image.Image, said: Sequence[tuple[int, ...]] | None = None) -> Asked:
        """`said`: the answers of all tokens; None before they are known."""
        given = dict(self.processor(images=[image], text="Question: <image>", return_tensors="pt"))
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        ids, owner, branch, place = list[int](), list[int](), list[int](), list[int]()
        asked, true, before = list[int](), list[tuple[int, ...]](), list[dict[tuple[int, ...], list[int]]]()
        for n, (question, answer) in enumerate(c.questions):
            words = self.ids_of(f"\n{question} Answer:")
            true.append(self.ids_of(f" {answer}\n"))
            ids += words
            owner += [n] * len(words)
            branch += [0] * len(words)
            place += range(len(words))
            asked.append(len(ids) - 1)
            known: dict[tuple[int, ...], list[int]] = {}
            for m, row in enumerate(dict.fromkeys([true[-1], *(said[n : n + 1] if said else [])]), 1):
                known[row] = [asked[-1], *range(len(ids), len(ids) + len(row) - 1)]
                ids += row[:-1]
                owner += [n] * (len(row) - 1)
                branch += [m] * (len(row) - 1)
                place += range(len(words), len(words) + len(row) - 1)
            before.append(known)
        at, of, kind_ = torch.arange(len(ids)), torch.tensor(owner), torch.tensor(branch)
        sees = (of[:, None] == of) & (at[None] <= at[:, None]) & ((kind_ == 0) | (kind_[:, None] == kind_))
        return Asked(given, torch.tensor([ids]), sees, torch.tensor(place), asked, true, before)

    @torch.no_grad()
    def predictions(self, asked: Asked, method: BudgetMethod, budget: Budget) -> tuple[Tensor, int]:
        """Log-probabilities [L V] behind every token, and how many tokens the picture kept."""
        full = asked.given["input_ids"].shape[1]
        reduced = reduce(self.family, method, budget, asked.given, always=True)
        assert reduced is not None
        length = reduced.inputs["input_ids"].shape[1]
        out = self.model(**reduced.inputs, use_cache=True, logits_to_keep=1)
        start = full if method.positions == "original" else length
        sees = torch.cat([torch.ones(len(asked.place), length, dtype=torch.bool), asked.sees], 1)
        out = self.model(
            input_ids=asked.ids, attention_mask=sees[None, None], position_ids=start + asked.place[None],
            past_key_values=out.past_key_values, use_cache=True,
        )  # fmt: skip
        return out.logits[0].float().log_softmax(-1), len(reduced.kept[0].rows)

    def answers(self, c: Canvas, image: Image.Image) -> list[tuple[int, ...]]:
        """What all tokens answer, greedily: a further word of every answer in each pass."""
        said: list[tuple[int, ...]] = [()] * len(c.questions)
        for _ in range(LONGEST):
            asked = self.questions(c, image, [(*row, END) for row in said])
            told, _ = self.predictions(asked, BUDGETS["hired"](), Budget(ratio=1.0))
            best = told.argmax(-1)
            more = [int(best[known[(*row, END)][-1]]) for known, row in zip(asked.before, said, strict=True)]
            end = self.ids_of("\n")[-1]
            said = [row if row and row[-1] == end else (*row, word) for row, word in zip(said, more, strict=True)]
            if all(row[-1] == end for row in said):
                break
        return said

    def ask(self, asked: Asked, said: Sequence[tuple[int, ...]], method: BudgetMethod, budget: Budget) -> Said:
        told, tokens = self.predictions(asked, method, budget)
        best = told.argmax(-1)

        def given(n: int, row: tuple[int, ...]) -> bool:
            return [int(best[at]) for at in asked.before[n][row]] == list(row)

        count = range(len(asked.last))
        return Said(
            [given(n, asked.true[n]) for n in count], [given(n, said[n]) for n in count], told[asked.last], tokens
        )


def conditions(methods: Sequence[str]) -> dict[str, tuple[BudgetMethod, Budget]]:
    """Every method as it comes, and what keeping positions is worth by itself."""
    rows: dict[str, tuple[BudgetMethod, Budget]] = {"whole view alone": (WholeView(), Budget(tokens=WHOLE))}
    for share in SHARES:
        for name in methods:
            rows[f"{name} {share:g}"] = (BUDGETS[name](), Budget(ratio=share))
    for share in SHARES:
        for name in RIVALS:
            if name in methods and (name == "hired" or share in CONTEST):
                kept = BUDGETS[name](positions="original")
                rows[f"{name}, positions kept {share:g}"] = (kept, Budget(ratio=share))
        if OURS in methods:
            rows[f"{OURS}, positions compact {share:g}"] = (BUDGETS[OURS](positions="compact"), Budget(ratio=share))
    return rows


class Ranking:
    """A model and the canvases that it is asked about."""

    def __init__(self, folder: Path, precision: str, split: str, seed: int, canvases: int) -> None:
        self.asker, self.photographs = Asker(folder, precision), Photographs(archives(), split)
        self.made = [canvas(self.photographs, seed, n) for n in range(canvases)]
        self.said = [self.asker.answers(c, c.image) for c in self.made]
        self.asked = [self.asker.questions(c, c.image, said) for c, said in zip(self.made, self.said, strict=True)]
        self.all = self.ask(*everything())

    def ask(self, method: BudgetMethod, budget: Budget) -> list[Said]:
        return [self.asker.ask(asked, said, method, budget) for asked, said in zip(self.asked, self.said, strict=True)]

    def blank(self) -> list[Said]:
        """With all tokens of an empty sheet of each canvas's colour."""
        found = []
        for c, said in zip(self.made, self.said, strict=True):
            empty = Image.new("RGB", (SIDE, SIDE), c.image.getpixel((0, 0)))  # type: ignore[arg-type]
            found.append(self.asker.ask(self.asker.questions(c, empty, said), said, *everything()))
        return found

    def judged(self, said: Sequence[Said]) -> dict[str, Any]:
        """Figures of a condition; `right` by canvas, so that differences between rows can be told with intervals."""
        kinds: dict[str, list[bool]] = {}
        for c, mine in zip(self.made, said, strict=True):
            for (question, _), hit in zip(c.questions, mine.right, strict=True):
                kinds.setdefault(kind(question), []).append(hit)
        right, asked = [sum(s.right) for s in said], [len(s.right) for s in said]
        kl = sum(float((a.first.exp() * (a.first - s.first)).sum()) for a, s in zip(self.all, said, strict=True))
        return {
            "tokens": math.fsum(s.tokens for s in said) / len(said), "questions": sum(asked),
            "accuracy": sum(right) / sum(asked), "agreement": sum(sum(s.same) for s in said) / sum(asked),
            "kl": kl / sum(asked), "kinds": {k: sum(v) / len(v) for k, v in sorted(kinds.items())},
            "right": right, "asked": asked,
        }  # fmt: skip


def everything() -> tuple[BudgetMethod, Budget]:
    return BUDGETS["hired"](), Budget(ratio=1.0)


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model", type=Path)
    args.add_argument("--canvases", type=int, default=60)
    args.add_argument("--precision", default="bf16")
    args.add_argument("--method", action="append", choices=sorted(BUDGETS))
    args.add_argument("--first", action="store_true", help="all tokens, a blank sheet and the whole view, no method")
    args.add_argument("--fresh", action="store_true")
    a = args.parse_args()
    torch.set_num_threads(default_threads())
    ranking = Ranking(a.model, a.precision, "val", SEED, a.canvases)
    say(f"{a.canvases} canvases, {sum(len(c.questions) for c in ranking.made)} questions")
    anchors: dict[str, Callable[[], list[Said]]] = {"all tokens": lambda: ranking.all, "blank sheet": ranking.blank}
    if a.first:
        for name, ask in {
            **anchors,
            "whole view alone": lambda: ranking.ask(WholeView(), Budget(tokens=WHOLE)),
        }.items():
            row = ranking.judged(ask())
            say(f"{name}: {row['accuracy']:.3f}, {row['kinds']}")
        return
    facts: dict[str, Any] = {"canvases": a.canvases, "seed": SEED, "precision": a.precision}
    if (a.model / "trained.json").exists():
        facts["trained"] = json.loads((a.model / "trained.json").read_text())
    sheet = Sheet("vlm_ranking", fresh=a.fresh, **facts)
    for name, ask in anchors.items():
        sheet.row(name, lambda ask=ask: ranking.judged(ask()))
    for name, (method, budget) in conditions(a.method or sorted(BUDGETS)).items():
        sheet.row(name, lambda m=method, b=budget: ranking.judged(ranking.ask(m, b)))


if __name__ == "__main__":
    main()
