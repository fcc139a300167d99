"""Models that the caller built: bare, of a subclass, with another head, in a wrapper, from another library."""

import pytest
import timm
import torch
from support.checkpoints import NAME, SMALL
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from foveate.adapters import adapt, describe
from foveate.errors import InputError
from foveate.loading.load import load
from foveate.loading.script import from_script
from foveate.preprocess import Preprocess

HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tiny(**options):
    torch.manual_seed(0)
    return timm.create_model(NAME, **SMALL, **{"num_classes": 5} | options)


def alike(loaded, module):
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(IMAGE), module.eval()(IMAGE), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(adapt(loaded.model)(IMAGE), module(IMAGE), rtol=1e-4, atol=1e-4)


def test_a_model_is_taken_with_its_own_preprocessing_and_left_as_it_was():
    model = tiny().train()
    loaded = load(model, classes=["a", "b", "c", "d", "e"])
    assert model.training and not loaded.model.training and loaded.model is not model
    assert loaded.preprocess.mean == HALVES["mean"] and loaded.preprocess.size == (32, 32)  # of its pretrained_cfg
    assert (loaded.ref.weights, loaded.classes, loaded.outputs) == ("object", tuple("abcde"), "classes")
    alike(loaded, model)


def test_a_model_without_a_configuration_needs_preprocessing():
    model = VisionTransformer(num_classes=5, patch_size=16, **SMALL)
    with pytest.raises(InputError, match="give preprocess="):
        load(model)
    assert load(model, preprocess=HALVES).preprocess.std == HALVES["std"]
    whole = Preprocess(size=(32, 32), **HALVES, crop_pct=0.5)
    assert load(model, preprocess=whole).preprocess == whole


def test_what_goes_with_a_name_alone_is_refused_beside_an_object():
    with pytest.raises(InputError, match="no img_size"):
        load(tiny(), img_size=64)
    with pytest.raises(InputError, match="5, as many as the model's classes"):
        load(tiny(), classes=["a"])


# A head that a fine-tuning script put there.
HEADS = {
    "a linear layer": (nn.Linear(32, 3), 3),
    "none": (nn.Identity(), 0),
    "two layers": (nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)), 4),
    "with batch norm": (nn.Sequential(nn.BatchNorm1d(32), nn.Linear(32, 2)), 2),
}


@pytest.mark.parametrize("head", HEADS)
def test_the_head_says_how_many_classes_there_are(head):
    model, (layer, count) = tiny(num_classes=1000), HEADS[head]
    model.head = layer
    loaded = load(model)
    assert describe(model).classes == count and loaded.outputs == ("classes" if count else "embedding")
    alike(loaded, model)


class Pairs(nn.Module):
    def forward(self, x):
        return x, x


def test_a_head_that_answers_with_something_else_is_refused():
    model = tiny()
    model.head = Pairs()
    with pytest.raises(InputError, match="the head, a Pairs, answers with a tuple"):
        describe(model)
    model.head = nn.Linear(7, 3)
    assert describe(model).classes == 3  # that it fails is told when it runs
    model.head = nn.Sequential(nn.Linear(7, 3))
    with pytest.raises(InputError, match="the head, a Sequential, fails on pooled tokens"):
        describe(model)


# Subclasses.
class Named(VisionTransformer):
    """Adds something that no forward pass runs."""

    def __init__(self, **options):
        super().__init__(**options)
        self.note = nn.Linear(2, 2)

    def describe_yourself(self):
        return "a ViT"


class Doubled(VisionTransformer):
    def forward_head(self, x, pre_logits=False):
        return 2 * super().forward_head(x, pre_logits)


def test_a_subclass_is_taken_unless_it_overrides_what_runs():
    options = {"num_classes": 5, "patch_size": 16, **SMALL}
    model = Named(**options)
    alike(load(model, preprocess=HALVES), model)
    with pytest.raises(InputError, match=r"Doubled overrides forward_head of timm\.models"):
        load(Doubled(**options), preprocess=HALVES)


# Wrappers.
class Behind(nn.Module):
    """A backbone and a classifier, as many write it."""

    def __init__(self, vit):
        super().__init__()
        self.backbone, self.drop, self.fc = vit, nn.Dropout(0.1), nn.Linear(32, 6)

    def forward(self, x):
        return self.fc(self.drop(self.backbone(x)))


class Through(nn.Module):
    def __init__(self, vit):
        super().__init__()
        self.net = nn.ModuleDict({"vit": vit})

    def forward(self, x):
        return self.net["vit"](x)


class Otherwise(Through):
    def forward(self, x):
        return self.net["vit"]((x - 0.5) / 0.2).softmax(-1)


def test_a_wrapper_that_changes_nothing_is_taken_off():
    module = Through(tiny())
    loaded = load(module)
    assert loaded.said == ("took net.vit out of the Through: its answers are the same",)
    alike(loaded, module)
    alike(load(nn.DataParallel(tiny())), tiny())


def test_a_classifier_behind_a_backbone_becomes_its_head():
    module = Behind(tiny(num_classes=0))
    loaded = load(module)
    assert "with its fc as the classifier" in loaded.said[0] and describe(loaded.model).classes == 6
    alike(loaded, module)


def test_a_wrapper_that_does_more_is_refused_with_what_to_do():
    with pytest.raises(InputError, match=r"does more than net\.vit.*give \.net\.vit itself|Give \.net\.vit itself"):
        load(Otherwise(tiny()))


def test_what_holds_no_vision_transformer_or_two_is_refused():
    with pytest.raises(InputError, match="holds none in it"):
        load(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)))
    with pytest.raises(InputError, match="2 of them: 0, 1"):
        load(nn.Sequential(tiny(), tiny()))


def test_torchvisions_is_converted_and_answers_alike():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    )
    model.heads.head = nn.Linear(32, 4)
    loaded = load(model)
    assert "converted" in loaded.said[0] and describe(loaded.model).classes == 4
    assert loaded.preprocess.mean == (0.485, 0.456, 0.406) and loaded.preprocess.interpolation == "bilinear"
    alike(loaded, model)


# Scripts.
SCRIPT = """
import timm
from beside import DEPTH

def build():
    return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=DEPTH, num_classes=3)

def both():
    return build(), {"crop_pct": 1.0}

def neither():
    return 7
"""


def test_a_script_makes_the_model(tmp_path):
    (tmp_path / "beside.py").write_text("DEPTH = 2")
    (tmp_path / "mine.py").write_text(SCRIPT)
    made = from_script(f"{tmp_path}/mine.py:build")
    assert made.preprocess is None and load(made.model).ref.depth == 2
    made = from_script(f"{tmp_path}/mine.py:both")
    assert load(made.model, preprocess=made.preprocess).preprocess.crop_pct == 1.0
    for wrong, told in (
        ("mine.py", "FILE:FUNCTION"),
        ("none.py:build", "no file"),
        ("mine.py:built", "it has build, both, neither"),
        ("mine.py:neither", "returned int"),
    ):
        with pytest.raises(InputError, match=told):
            from_script(f"{tmp_path}/{wrong}")
