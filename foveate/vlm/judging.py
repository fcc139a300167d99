"""What a budget costs on a question: how far the model's words are from those it finds with all tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.budgets.count import Budget
from foveate.vlm.applying import applied_to
from foveate.vlm.prompt import TYPES

NEW = 16  # tokens of the answer that are compared


@dataclass(frozen=True, eq=False)
class Reference:
    """What a model answers with all tokens, and everything it might have said: ids [T], log-probabilities [T V]."""

    ids: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Cost:
    """What is lost on one question. It tells budgets apart on that question, and is no accuracy.

    Args:
        kl: KL(all tokens || kept) of the next token, nats, the mean over the answer with all tokens.
        agreement: the share of the answer's tokens that are still the most likely ones.
    """

    kl: float
    agreement: float


@torch.no_grad()
def reference(model: Any, inputs: Mapping[str, Any], new: int = NEW) -> Reference:
    """Ask a model that has a budget, with all tokens and an encoder that is whole. `inputs`: one prompt."""
    applied = applied_to(model)
    was = applied.budget
    applied.budget = Budget(ratio=1.0)
    try:
        out = model.generate(**inputs, max_new_tokens=new, do_sample=False)
        ids = out[0, inputs["input_ids"].shape[1] :]
        return Reference(ids, forced(model, inputs, ids))
    finally:
        applied.budget = was


def cost(model: Any, inputs: Mapping[str, Any], asked: Reference) -> Cost:
    """Compare the model as it is, with its budget, against `asked`."""
    scores = forced(model, inputs, asked.ids)
    kl = (asked.scores.exp() * (asked.scores - scores)).sum(-1).clamp(min=0).mean()
    same = (scores.argmax(-1) == asked.ids.to(scores.device)).float().mean()
    return Cost(float(kl), float(same))


@torch.no_grad()
def forced(model: Any, inputs: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Log-probabilities [T V] of an answer's tokens `ids` [T], each given those before it."""
    extra = ids[None].to(inputs["input_ids"])
    longer = dict(inputs)
    for name, value in (("input_ids", extra), ("attention_mask", torch.ones_like(extra)), (TYPES, 0 * extra)):
        if isinstance(inputs.get(name), Tensor):
            longer[name] = torch.cat([inputs[name], value.to(inputs[name])], 1)
    logits = model(**longer, logits_to_keep=len(ids) + 1).logits
    return logits[0, -len(ids) - 1 : -1].float().log_softmax(-1)
