"""Ways of naming a model, and where each leads; every refusal says what to do instead."""

import pytest

from foveate.errors import InputError, NotAvailable
from foveate.loading.load import load
from foveate.loading.suggest import near

TINY = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "depth": 2}


@pytest.mark.parametrize(
    "name",
    [
        TINY,
        f"{TINY}.augreg_in21k_ft_in1k",
        f"hf-hub:timm/{TINY}.augreg_in21k_ft_in1k",
        f"hf_hub:timm/{TINY}.augreg_in21k_ft_in1k",
        f"timm/{TINY}.augreg_in21k_ft_in1k",
        f"https://huggingface.co/timm/{TINY}.augreg_in21k_ft_in1k",
    ],
)
def test_all_ways_of_naming_a_timm_model_are_the_same_model(name):
    assert load(name, random_weights=True, **SMALL).ref.name.partition(".")[0] == TINY


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_tiny", "did you mean vit_tiny_patch16_224"),
        ("vit-tiny-patch16-224", "did you mean vit_tiny_patch16_224"),
        ("ViT_Tiny_Patch16_224", "did you mean vit_tiny_patch16_224"),
        ("vit_tiny_patch16_225", "vit_tiny_patch16_224"),
        ("google/vit-base-patch16-224", "cannot get google/vit-base-patch16-224 .*did you mean vit_base_patch16_224"),
        ("facebook/dinov2-small", "did you mean vit_small_patch14_dinov2"),
        ("vit_b_16", "did you mean vit_base_patch16_224"),
        ("openai/ViT-B/32", "vit_base_patch32_224"),
        ("facebook/dinov2-base", "did you mean vit_base_patch14_dinov2"),
        ("dinov2_vits14", "did you mean vit_small_patch14_dinov2"),
        ("google/siglip-base-patch16-224", "did you mean vit_base_patch16_siglip_224"),
        ("deit_small", "deit_small_patch16_224"),
        ("clothing", "clothing_vit"),
        ("vit_tiny.safetensors", "is a file; allowed: a model's name, and the file with --weights"),
        ("quite another thing", "foveate list models"),
        ("", "foveate list models"),
        ("local-dir:/nowhere/at/all", "no such folder"),
    ],
)
def test_a_name_that_leads_nowhere_says_which_does(name, told):
    with pytest.raises(InputError, match=told):
        load(name, random_weights=True)


def test_only_models_that_foveate_takes_are_suggested():
    for word in ("vit_tiny", "swin", "vit_base_r50", "vit", "eva02", "deit", "beit"):
        for name in near(word):
            assert load(name, random_weights=True).ref.tokens > 1, (word, name)
            break  # one of each word: they are large


def test_a_model_of_somebodys_on_the_hub_fails_in_one_line_without_a_network(monkeypatch):
    monkeypatch.setattr("foveate.loading.hub._reachable", lambda address: False)
    with pytest.raises(NotAvailable, match=r"cannot get hf-hub:nobody/vit: no network, not in the cache"):
        load("hf-hub:nobody/vit")


def test_sides_may_differ_and_channels_be_one_or_four():
    import numpy as np
    from PIL import Image

    photo = Image.new("RGBA", (40, 30), (255, 0, 0, 128))
    for channels, wide in ((1, 48), (3, 48), (4, 64)):
        loaded = load(TINY, random_weights=True, depth=2, img_size=(32, wide), in_chans=channels)
        x = loaded.preprocess(photo)
        assert x.shape == (channels, 32, wide) == (channels, *loaded.preprocess.size) and np.isfinite(x).all()


def test_preprocessing_that_differs_from_the_weights_own():
    loaded = load(TINY, random_weights=True, preprocess={"mean": 0.25, "crop_pct": 1.0}, **SMALL)
    assert loaded.preprocess.mean == (0.25,) * 3 and loaded.preprocess.crop_pct == 1.0
    for wrong, told in (
        ({"means": 1}, "means"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"size": (64, 64)}, "img_size"),
        ({"mean": (0.5,), "std": (0.5,)}, "the model takes 3"),
    ):
        with pytest.raises(InputError, match=told):
            load(TINY, random_weights=True, preprocess=wrong, **SMALL)
