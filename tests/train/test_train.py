"""Training: it learns what its task asks, whatever the model, and leaves what it says."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.lessons import COLOURS, incremental, losses, photograph, recipe, small

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.loading.load import load
from foveate.plans import Step
from foveate.runtimes import RUNTIMES
from foveate.train import Classify, Distil, Incremental, MatchTokens, Through, loop, train
from foveate.train.parts import preprocess_of
from foveate.train.tasks import outputs


def test_it_learns_and_leaves_what_it_says(colours, tmp_path):
    done = train(recipe(colours, epochs=4, ema=0.5), tmp_path / "run")
    assert done.best_score > 90 and done.steps == 4 * 6 and done.unreadable == 0
    assert {"last.pt", "log.csv", "best.safetensors", "best.json"} <= {p.name for p in done.out.iterdir()}
    told = losses(done.out)
    assert [step for step, _, _ in told] == list(range(1, 25)) and told[-1][2] < told[0][2]
    model = small(3)
    model.load_state_dict(load_file(done.best))


def test_parts_of_a_step_add_up(colours, tmp_path):
    whole = train(recipe(colours, epochs=1), tmp_path / "a")
    parts = train(recipe(colours, epochs=1, accumulate=4), tmp_path / "b")
    a, b = (np.array([v for _, _, v in losses(run.out)]) for run in (whole, parts))
    np.testing.assert_allclose(a, b, rtol=2e-4)


def test_two_classifiers_are_both_taught(colours, tmp_path):
    from foveate.models.vittm import ViTTM

    def made(classes):
        return ViTTM(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=classes)

    done = train(recipe(colours, model=made, epochs=1), tmp_path / "run")
    assert {name for _, name, _ in losses(done.out)} == {"loss memory", "loss process"}
    assert set(done.last) == {"top-1 label"}  # in eval mode one of them answers


@pytest.mark.parametrize(
    "task", [Distil(small(3), weight=0.5), MatchTokens(small(3), blocks=(0, 1))], ids=["logits", "tokens"]
)
def test_a_teacher_is_listened_to_and_not_changed(colours, tmp_path, task):
    before = [p.clone() for p in task.teacher.model.parameters()]
    done = train(recipe(colours, task=task, epochs=1), tmp_path / "run")
    assert len({name for _, name, _ in losses(done.out)}) == 2
    assert all(torch.equal(a, b) for a, b in zip(before, task.teacher.model.parameters(), strict=True))


def test_one_model_is_taught_for_every_operating_point(colours, tmp_path):
    torch.manual_seed(0)
    done = train(recipe(colours, model=incremental, task=Incremental(least=0.3, warm=0.5), epochs=4), tmp_path / "run")
    at = lambda what: {step for step, name, _ in losses(done.out) if name == f"loss {what}"}
    assert at("exit 1") == at("exit 2") == set(range(1, 25))
    assert at("drawn") == set(range(13, 25))  # after the warm-up
    assert set(done.last) == {"top-1 whole", "top-1 least"} and done.best_score > 60
    found = [value for _, _, value in losses(done.out, "top-1")]  # whole and least, an epoch after the other
    assert done.best_score == max((a + b) / 2 for a, b in zip(found[::2], found[1::2], strict=True))


def test_a_plan_is_taught_to_the_weights_that_run_through_it(colours, tmp_path):
    steps = [Step(block=0, method="evit", tokens=9)]
    task = Through(steps, Classify(0.0))
    made = recipe(colours, task=task, epochs=3, ema=0.5)
    assert made.fingerprint() != recipe(colours, task=Through([]), epochs=3, ema=0.5).fingerprint()
    done = train(made, tmp_path / "run")
    model = small(3)
    model.load_state_dict(load_file(done.best))  # the model's own weights and keys
    photos = [photograph(c, 100 * i + n + 50) for i, c in enumerate(COLOURS) for n in range(4)]
    pre = preprocess_of(small(3), 32)
    x, labels = torch.from_numpy(np.stack([pre(p) for p in photos])), torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        right = (adapt(model.eval(), steps)(x).argmax(1) == labels).float().mean()
        assert not torch.equal(adapt(model, steps)(x), model(x))
    assert 100 * float(right) == pytest.approx(done.best_score)
    assert not list(task.parameters())


def test_options_may_be_lists_and_come_back(colours, tmp_path):
    options = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "transitions": (0, 1)}
    made = recipe(colours, model="iret_residual_tiny_patch16_224", options=options, task=Incremental(), epochs=1)
    done = train(made, tmp_path / "run")
    assert load(str(done.out)).model.transitions == (0, 1)
    with pytest.raises(InputError, match=r"transitions=\['x'\]; allowed: .* whole numbers with commas"):
        load(str(done.out), transitions=["x"])


def test_shares_become_counts():
    point = Incremental.point(incremental(3), 0.5, 0.25)
    assert point.keep == (8, 4) and point.focus == (2, 1)
    with pytest.raises(InputError, match="least is 0; allowed: above 0 to 1"):
        Incremental(least=0.0)


def test_smoothing_and_binary_losses():
    y, logits = torch.eye(3), torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    want = torch.nn.functional.cross_entropy(logits, torch.arange(3), label_smoothing=0.1)
    torch.testing.assert_close(Classify(0.1).loss(logits, y), want)
    p = logits.sigmoid()
    want = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(Classify(0.0, binary=True).loss(logits, y), want)
    assert list(outputs((1, 2))) == ["memory", "process"]


def test_bf16_is_not_imitated_by_a_cpu_without_it(monkeypatch, caplog):
    asked = SimpleNamespace(precision="bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(RUNTIMES["eager"], "why_not", lambda precision: "this CPU has no bf16 instructions")
    assert loop._mixed(asked) == "no" and "not in the recipe's bf16: this CPU has no" in caplog.text
    monkeypatch.setattr(RUNTIMES["eager"], "why_not", lambda precision: None)
    assert loop._mixed(asked) == "bf16" and loop._mixed(SimpleNamespace(precision="fp32")) == "no"
