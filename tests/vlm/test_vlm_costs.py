"""What a budget costs on a question: nothing where all tokens stay, and what it is by another way where they do not."""

from typing import Any

import pytest
import torch
from support import vlms

import foveate.vlm
from foveate.budgets import Budget
from foveate.vlm.judging import cost, forced, reference

pytest.importorskip("transformers")
NAME = pytest.mark.parametrize("name", vlms.NAMES)


def question(name: str, model: Any) -> dict[str, Any]:
    seen = vlms.pictures(name, model, vlms.SIZES[:1])
    return vlms.prompts(seen, vlms.counts(name, model, seen))


@NAME
def test_words_given_again_have_the_scores_they_had(name: str):
    """Log-probabilities of a whole answer at once are those of generating it token by token, with a budget too."""
    model = foveate.vlm.apply(vlms.model(name), 0.5)
    asked = question(name, model)
    for share in (1.0, 0.4):
        foveate.vlm.applied_to(model).budget = Budget(ratio=share)
        out = model.generate(
            **asked, max_new_tokens=5, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        ids = out.sequences[0, asked["input_ids"].shape[1] :]
        wanted = torch.stack([step[0] for step in out.logits]).float().log_softmax(-1)
        assert torch.allclose(forced(model, asked, ids), wanted, atol=1e-4)


@NAME
def test_all_tokens_cost_nothing_and_few_cost_something(name: str):
    model = foveate.vlm.apply(vlms.model(name), 0.3)
    asked = question(name, model)
    whole = reference(model, asked, new=6)
    assert foveate.vlm.applied_to(model).budget == Budget(ratio=0.3) and len(whole.ids) == 6
    few = cost(model, asked, whole)
    foveate.vlm.applied_to(model).budget = Budget(ratio=1.0)
    none = cost(model, asked, whole)
    assert none.kl == pytest.approx(0, abs=1e-5) and none.agreement == 1.0
    assert few.kl > 10 * none.kl and 0 <= few.agreement <= 1
