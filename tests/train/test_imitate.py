"""Learning from a model's own answers, and the two stages of a conversion."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from support.lessons import small
from timm.models.vision_transformer import VisionTransformer

from foveate import load
from foveate.commands.reparameterize import Training, Words, convert
from foveate.errors import InputError
from foveate.linears import Routed
from foveate.loading.objects import hold
from foveate.models.reparameterized import reparameterize
from foveate.target import Target
from foveate.train.examples import find_loose
from foveate.train.imitate import Imitate, behind_blocks

QUICK = Training(epochs=2, batch=8, lr=1e-3, precision="fp32", workers=0)
WORDS = Words(attention="hashed_linear", mlp="mixture:ratio=3")


def teacher(classes: int = 3) -> VisionTransformer:
    torch.manual_seed(0)
    return small(classes).eval()


def held(classes: int = 3):
    return hold(teacher(classes), preprocess={"mean": (0.5,) * 3, "std": (0.25,) * 3})


def found(task: Imitate, model: torch.nn.Module, x: torch.Tensor) -> dict[str, float]:
    return {name: float(v.detach()) for name, v in task(model, x, torch.zeros(len(x))).items()}


def test_a_copy_has_nothing_to_learn():
    model, x = teacher(), torch.randn(4, 3, 32, 32)
    losses = found(Imitate(model), reparameterize(model), x)
    assert losses == {"answer": pytest.approx(0, abs=1e-6), "tokens": pytest.approx(0, abs=1e-6)}


def test_tokens_behind_blocks_are_timms():
    model, x = teacher(), torch.randn(2, 3, 32, 32)
    final, tokens = behind_blocks(model, x)
    assert torch.equal(model.forward_head(final), model(x)) and len(tokens) == 2
    assert torch.equal(final, model.forward_features(x))


def test_losses_by_their_formulas():
    model, x = teacher(), torch.randn(4, 3, 32, 32)
    torch.manual_seed(5)
    student = reparameterize(model, attention="sigmoid")
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.05 * torch.randn_like(p))
    student.requires_grad_(False)
    losses = found(Imitate(model, temperature=2.0, tokens=0.5), student, x)
    p, q = ((m(x) / 2).softmax(1) for m in (model, student))
    assert losses["answer"] == pytest.approx(float(4 * (p * (p / q).log()).sum(1).mean()), rel=1e-4)
    pairs = zip(*(behind_blocks(m, x)[1] for m in (student, model)), strict=True)
    apart = [((a - b) ** 2).mean() / (b**2).mean() for a, b in pairs]
    assert losses["tokens"] == pytest.approx(0.5 * float(sum(apart)) / 2, rel=1e-4)
    embedded = found(Imitate(model, embedding=True), student, x)["answer"]
    assert embedded == pytest.approx(1 - float(torch.cosine_similarity(student(x), model(x)).mean()), rel=1e-4)


def test_a_mixture_is_balanced_with_its_weight():
    model, x = teacher(), torch.randn(4, 3, 32, 32)
    student = reparameterize(model, mlp="mixture").train()
    assert found(Imitate(model, balance=0.0), student, x)["balance"] == 0
    assert found(Imitate(model, balance=1.0), student, x)["balance"] > 0


@pytest.mark.parametrize("options", [{"tokens": -1}, {"balance": float("nan")}, {"temperature": 0}])
def test_a_wrong_weight_is_refused(options: dict[str, float]):
    with pytest.raises(InputError, match=f"{next(iter(options))} is"):
        Imitate(teacher(), **options)


def test_photographs_without_labels(tmp_path, colours):
    train, val = find_loose(str(colours), None, None)
    assert (len(train), len(val)) == (48, 12) and not train.labels.any()
    for at, name in enumerate(train.names[:40]):
        (tmp_path / f"{at}.png").write_bytes((colours / name).read_bytes())
    train, val = find_loose(str(tmp_path), None, None)
    assert len(train) + len(val) == 40 and val.names and not set(train.names) & set(val.names)
    (tmp_path / "more.png").write_bytes((tmp_path / "0.png").read_bytes())
    assert set(val.names) <= set(find_loose(str(tmp_path), None, None)[1].names)  # a photograph keeps its side
    for at in range(5, 40):
        (tmp_path / f"{at}.png").unlink()
    with pytest.raises(InputError, match="holds 6 photographs"):
        find_loose(str(tmp_path), None, None)


def test_a_conversion_leaves_a_model_like_any_other(tmp_path, colours):
    done = convert(held(), str(colours), tmp_path / "out", WORDS, QUICK)
    assert list(done.stages) == ["attention", "all"]
    made = load(str(tmp_path / "out"))
    assert made.preprocess.mean == (0.5,) * 3
    assert made.ref.name == "reparameterized_vit" and made.ref.kwargs["mlp"] == "mixture:ratio=3"
    assert [m.ratio for m in made.model.modules() if isinstance(m, Routed)] == [3.0, 3.0]
    before, after = reparameterize(teacher(), attention="hashed_linear"), load(str(tmp_path / "out/attention")).model
    assert not torch.equal(before.blocks[0].attn.qkv.weight, after.blocks[0].attn.qkv.weight)  # it has learnt
    written = (tmp_path / "out/conversion.json").read_text()
    (tmp_path / "out/last.pt").unlink()  # as where the first of two stages is under way
    with pytest.raises(InputError, match="holds a run already"):
        convert(held(), str(colours), tmp_path / "out", Words(attention="sigmoid", mlp="shift"), QUICK)
    assert (tmp_path / "out/conversion.json").read_text() == written


def test_an_embedding_is_imitated_too(tmp_path, colours):
    done = convert(held(0), str(colours), tmp_path / "out", Words(attention="sigmoid"), QUICK)
    assert list(done.stages) == ["all"] and load(str(tmp_path / "out")).outputs == "embedding"
    assert done.stages["all"].figure == "agreement" and done.stages["all"].best_score <= 100


class Stopped(Exception):
    pass


def test_a_mixture_without_a_ratio_is_measured(tmp_path, colours):
    words = Words(mlp="mixture:format=apot2", projections="mixture:ratio=2")
    here = Target(runtime="openvino", precision="fp32", threads=1)
    done = convert(held(), str(colours), tmp_path / "out", words, replace(QUICK, epochs=1), target=here)
    assert list(done.measured) == ["mlp"] and "times as long" in done.measured["mlp"]
    said, ratio = done.words.mlp.split(",ratio=")
    assert said == "mixture:format=apot2" and 0.05 < float(ratio) < 20 and done.words.projections == "mixture:ratio=2"
    with pytest.raises(InputError, match="is a conversion to"):
        convert(held(), str(colours), tmp_path / "out", WORDS, QUICK, resumed=True)
    again = convert(held(), str(colours), tmp_path / "out", words, replace(QUICK, epochs=1), resumed=True)
    assert again.words == done.words  # not measured anew


@pytest.mark.parametrize("at", [0.2, 0.75])
def test_broken_off_and_resumed_it_is_what_it_would_have_been(tmp_path, colours, at: float):
    def stop(stage: str, share: float, text: str) -> None:
        if share > at:
            raise Stopped

    convert(held(), str(colours), tmp_path / "whole", WORDS, QUICK)
    with pytest.raises(Stopped):
        convert(held(), str(colours), tmp_path / "out", WORDS, QUICK, progress=stop)
    convert(held(), str(colours), tmp_path / "out", WORDS, QUICK, resumed=True)
    whole, again = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_the_command(tmp_path, colours, capsys):
    from foveate.cli import app

    weights(tmp_path / "w.safetensors")
    with pytest.raises(SystemExit) as done:
        app(
            ["reparameterize", "vit_tiny_patch16_224", "--model-option", "img_size=32", "--model-option", "depth=1",
             "--model-option", "num_classes=3", "--weights", str(tmp_path / "w.safetensors"), "--data", str(colours),
             "--mlp", "shift", "--epochs", "1", "--batch", "8", "--precision", "fp32", "--out", str(tmp_path / "out"),
             "--json"]
        )  # fmt: skip
    assert not done.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["mlp"] == "shift" and told["agreement all %"] >= 0 and (tmp_path / "out/best.safetensors").exists()


def weights(path) -> None:
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
    save_file(model.state_dict(), path)


def test_nothing_to_convert_is_said():
    with pytest.raises(InputError, match="nothing to convert"):
        Words().stages()
