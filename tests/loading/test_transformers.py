"""Vision encoders of transformers': the same answers as objects, from folders and by name, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.encoders import ENCODERS, PROCESSOR

import foveate
from foveate import InputError, load
from foveate.adapters import adapt, describe
from foveate.errors import NotAvailable
from foveate.loading.convert_hf import CONVERTERS, answer_of
from foveate.loading.huggingface import preprocess_of
from foveate.planning import shorthand

pytest.importorskip("transformers")
KIND = pytest.mark.parametrize("kind", ENCODERS)


def answers(model: Any, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return answer_of(model, model(image))


def folder(path: Path, model: Any, **changes: Any) -> Path:
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    return path


@KIND
def test_parity(kind: str, tmp_path: Path):
    """Object and folder answer as transformers does, wrapped without a step too; and tokens are really reduced."""
    host = ENCODERS[kind]()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    wanted = answers(host, image)
    held = load(host, preprocess={"mean": 0.5, "std": 0.5})
    found = load(str(folder(tmp_path / kind, host)))
    for loaded in (held, found):
        assert loaded.said[-1].startswith("converted the transformers.models")
        with torch.no_grad():
            assert torch.allclose(loaded.model(image), wanted, atol=1e-5)
            assert torch.allclose(adapt(loaded.model)(image), wanted, atol=1e-5)
    facts = describe(found.model)
    classes = wanted.shape[1] == 3
    assert found.outputs == ("classes" if classes else "embedding")
    assert found.classes == (("cat", "dog", "cow") if classes else None)
    fewer = adapt(found.model, shorthand.steps(found.model, "tome", r=3))
    assert fewer.dry_run()[-1] == facts.tokens - 3 * 2
    with torch.no_grad():
        assert fewer(image).shape == wanted.shape


def test_preprocessing_comes_with_the_folder(tmp_path: Path):
    found = load(str(folder(tmp_path, ENCODERS["vit"]())))
    made = found.preprocess
    assert (made.size, made.mean, made.std) == ((64, 64), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (made.interpolation, made.crop_mode, made.crop_pct) == ("bicubic", "squash", 1.0)
    assert load(str(tmp_path), preprocess={"crop_mode": "center"}).preprocess.crop_mode == "center"


def test_the_processors_pixels_are_ours(tmp_path: Path, photos: list[Path]):
    """The same photograph through transformers' processor (Pillow's) and through ours."""
    import transformers as hf
    from PIL import Image

    for described in (
        PROCESSOR,
        PROCESSOR | {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}},
    ):
        model = ENCODERS["dinov2"]()
        found = load(str(folder(tmp_path / str(len(described)), model, **described)))
        cls = hf.CLIPImageProcessorPil if "crop_size" in described else hf.ViTImageProcessorPil
        processor = cls(**described)
        # of an odd margin theirs leaves the larger half behind, ours (timm's) rounds it
        picture = Image.open(photos[0]).convert("RGB").crop((0, 0, 160, 160))
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.from_numpy(found.preprocess(picture)).sub(theirs).abs().max() < 0.02


@pytest.mark.parametrize(
    ("described", "wanted"),
    [
        ({}, {}),
        ({"size": 224, "resample": 2}, {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}},
            {"crop_mode": "center", "crop_pct": 0.875},
        ),
        (
            {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": 224},
            {"crop_mode": "squash", "crop_pct": 0.875},
        ),
        ({"size": 224, "do_center_crop": True, "crop_size": 224}, {"crop_mode": "center", "crop_pct": 1.0}),
        ({"do_normalize": False, "image_mean": [1, 2, 3]}, {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
    ],
)
def test_image_processors(described: dict, wanted: dict):
    found = preprocess_of(described, "x")
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("described", "told"), [({"resample": 9}, "resample 9"), ({"rescale_factor": 1 / 127.5}, "1/255")]
)
def test_image_processors_refused(described: dict, told: str):
    with pytest.raises(InputError, match=told):
        preprocess_of({"size": 64, **described}, "x")


def test_positions_are_made_for_the_photographs(tmp_path: Path):
    """A DINOv2 trained at another size than its photographs have: positions are resampled as transformers does."""
    host = ENCODERS["dinov2_registers"]()
    where = folder(tmp_path, host, size={"height": 96, "width": 96})
    found = load(str(where))
    image = torch.randn(1, 3, 96, 96)
    assert found.preprocess.size == (96, 96)
    with torch.no_grad():
        assert torch.allclose(found.model(image), answers(host, image), atol=1e-5)


def test_towers_of_whole_models(tmp_path: Path):
    """A CLIP or SigLIP with its text tower: the image's is taken."""
    import transformers as hf
    from support.encoders import SHAPE

    torch.manual_seed(0)
    text = {k: v for k, v in SHAPE.items() if k not in ("image_size", "patch_size")} | {"vocab_size": 50}
    image = torch.randn(2, 3, 64, 64)
    clip = hf.CLIPModel(hf.CLIPConfig(vision_config=SHAPE, text_config=text, projection_dim=24)).eval()
    siglip = hf.SiglipModel(hf.SiglipConfig(vision_config=SHAPE, text_config=text)).eval()
    for name, host in (("clip", clip), ("siglip", siglip)):
        found = load(str(folder(tmp_path / name, host)))
        with torch.no_grad():
            wanted = host.get_image_features(pixel_values=image)
            wanted = getattr(wanted, "pooler_output", wanted)
            assert found.outputs == "embedding" and torch.allclose(found.model(image), wanted, atol=1e-5)


def test_a_plan_is_exported_again_by_its_folder(tmp_path: Path):
    found = load(str(folder(tmp_path / "vit", ENCODERS["vit"]())))
    assert found.ref.weights == "hub" and found.ref.name == f"local-dir:{(tmp_path / 'vit').resolve()}"
    plan = foveate.Plan(model=found.ref, target=foveate.Target(runtime="onnxruntime"))
    plan.save(tmp_path / "plan.json")
    from foveate.commands.export import export_plan

    out = export_plan(tmp_path / "plan.json", out=tmp_path / "out")
    image = torch.zeros(1, 3, 64, 64)
    import numpy as np

    with torch.no_grad():
        assert np.allclose(foveate.open(out)(image.numpy()), found.model(image).numpy(), atol=1e-3)


def test_and_back_again():
    """timm's ViT as a tower: the same tokens behind the last norm."""
    import timm

    from foveate.loading.convert_hf import to_vit

    torch.manual_seed(0)
    small = {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 4, "num_classes": 3}
    model = timm.create_model("vit_tiny_patch16_224", **small).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(to_vit(model)(image).last_hidden_state, model.forward_features(image), atol=1e-5)
    scaled = timm.create_model("vit_tiny_patch16_224", **small, init_values=0.1)
    with pytest.raises(InputError, match="is no ViTModel"):
        to_vit(scaled)


def test_refused(tmp_path: Path):
    import transformers as hf

    where = folder(tmp_path / "vit", ENCODERS["vit"]())
    for options in ({"weights": "x.safetensors"}, {"img_size": 32}):
        with pytest.raises(InputError, match="is as it is"):
            load(str(where), **options)
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match="give preprocess="):
        load(str(where))
    config = json.loads((where / "config.json").read_text())
    for change, told in (
        ({"model_type": "bert"}, r"transformers model \(bert\); known here: vit, deit"),
        ({"hidden_act": "tanh"}, "activation 'tanh'"),
        ({"architectures": ["Dinov2ForImageClassification"]}, "class token and the mean"),
        ({"model_type": "none_such"}, "cannot load it"),
    ):
        (where / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=told):
            load(str(where), preprocess={"mean": 0.5, "std": 0.5})
    (where / "config.json").write_text(json.dumps(config))
    (where / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load it"):
        load(str(where))
    assert load(str(where), random_weights=True, preprocess={"mean": 0.5, "std": 0.5}).ref.weights == "random"
    assert len(CONVERTERS) >= 11 and hf.__version__


def test_pickles_are_not_opened(tmp_path: Path):
    """A folder with nothing but a pickle is refused without leave."""
    host = ENCODERS["vit"]()
    where = folder(tmp_path, host)
    (where / "model.safetensors").unlink()
    torch.save(host.state_dict(), where / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot load it"):
        load(str(where))
    assert load(str(where), allow_pickle=True).outputs == "classes"


def test_by_name_without_a_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foveate.loading.hub._reachable", lambda address: False)
    with pytest.raises(
        NotAvailable, match=r"cannot get google/vit-base-patch16-224 .*did you mean vit_base_patch16_224"
    ):
        load("google/vit-base-patch16-224")
