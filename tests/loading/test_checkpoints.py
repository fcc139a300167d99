"""Checkpoints as training scripts leave them: wrapped, averaged, prefixed, of other channels, pooling or names."""

import argparse
import json
import os

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.checkpoints import EIGHT, NAME, SMALL, saved

from foveate.errors import InputError
from foveate.loading.load import load


def same(loaded, state):
    own = loaded.model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[k], v) for k, v in state.items())


def moved(state):
    return {k: v + 1 for k, v in state.items()}


def written(tmp_path, content, name="checkpoint.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


WRAPS = {
    "plain": lambda s: s,
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "epoch": 3},
    "deit's": lambda s: {"model": s, "args": argparse.Namespace(lr=1e-3, model="deit"), "scaler": {"scale": 1.0}},
    "state_dict": lambda s: {"state_dict": s, "arch": NAME, "metric": 81.2},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "net": lambda s: {"net": s, "acc": 90.0},
    "DataParallel's": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled and distributed": lambda s: {"model": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "Lightning's": lambda s: {
        "state_dict": {f"model.{k}": v for k, v in s.items()} | {"loss.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 0.1}, "callbacks": {},
    },
    "one unknown key": lambda s: {"my_vit": s},
    "deep": lambda s: {"checkpoint": None, "model": {"state_dict": s}},
    "an epoch among them": lambda s: {**s, "epoch": 7},
}  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_what_wraps_the_tensors_is_taken_off(wrap, tmp_path, state):
    """Without leave to unpickle: all of these hold tensors and plain values."""
    loaded = load(NAME, weights=written(tmp_path, WRAPS[wrap](state)), **SMALL)
    assert same(loaded, state) and loaded.ref.kwargs["num_classes"] == 8


def test_prefixes_are_taken_off_safetensors_too_and_said(tmp_path, state):
    path = saved(tmp_path, {f"module.{k}": v for k, v in state.items()})
    loaded = load(NAME, weights=path, **SMALL)
    assert same(loaded, state) and loaded.said == (f"{path}: took 'module.' off the names",)


@pytest.mark.parametrize(
    ("averaged", "raw"), [("state_dict_ema", "state_dict"), ("model_ema", "model"), ("teacher", "student")]
)
def test_averaged_weights_are_taken_as_timm_does_and_said(averaged, raw, tmp_path, state):
    path = written(tmp_path, {raw: moved(state), averaged: state})
    loaded = load(NAME, weights=path, **SMALL)
    assert same(loaded, state)
    assert loaded.said == (f"{path}: took {averaged} (the averaged weights, as timm takes them), not {raw}",)


def test_a_backbone_within_another_model_is_taken_and_what_is_left_out_said(tmp_path):
    backbone = timm.create_model(NAME, num_classes=0, **SMALL).state_dict()
    path = written(
        tmp_path,
        {
            "teacher": {f"backbone.{k}": v for k, v in backbone.items()} | {"head.mlp.0.weight": torch.ones(2, 2)},
            "student": {f"backbone.{k}": v + 1 for k, v in backbone.items()},
        },
    )
    loaded = load(NAME, weights=path, num_classes=0, **SMALL)
    assert same(loaded, backbone)
    assert loaded.said[1] == f"{path}: took 'backbone.' off the names; left out: head.mlp.0.weight"


def test_a_mismatch_behind_a_prefix_is_still_one(tmp_path, state):
    del state["norm.bias"]
    with pytest.raises(InputError, match=r"1 missing \(norm\.bias\)"):
        load(NAME, weights=saved(tmp_path, {f"module.{k}": v for k, v in state.items()}), **SMALL)


def test_two_unknown_state_dicts_are_refused_by_name(tmp_path, state):
    with pytest.raises(InputError, match=r"hold 'first', 'second'; allowed: tensors by name, plain or under one of"):
        load(NAME, weights=written(tmp_path, {"first": state, "second": state}), **SMALL)


class Own:
    """Somebody's class in a checkpoint."""


def test_a_pickle_that_needs_code_is_refused_by_what_it_asks_for(tmp_path, state):
    path = written(tmp_path, {"model": state, "config": Own()})
    with pytest.raises(InputError, match=r"cannot be unpickled without running code.*Own.*--allow-pickle"):
        load(NAME, weights=path, **SMALL)
    assert same(load(NAME, weights=path, allow_pickle=True, **SMALL), state)


class Attack:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_no_code_of_a_checkpoint_runs_unasked(tmp_path, state, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="without running code"):
        load(NAME, weights=written(tmp_path, {"model": state, "x": Attack()}), **SMALL)
    assert not (tmp_path / "harmed").exists()


def test_a_whole_pickled_model_gives_its_weights_where_its_origin_is_trusted(tmp_path):
    model = timm.create_model(NAME, **EIGHT)
    path = written(tmp_path, model)
    with pytest.raises(InputError, match="--allow-pickle"):
        load(NAME, weights=path, **SMALL)
    loaded = load(NAME, weights=path, allow_pickle=True, **SMALL)
    assert same(loaded, model.state_dict()) and "a whole VisionTransformer" in loaded.said[0]


# What a file tells of its model.
@pytest.mark.parametrize("channels", [1, 4])
def test_channels_are_read_off_the_weights(channels, tmp_path):
    state = timm.create_model(NAME, in_chans=channels, **EIGHT).state_dict()
    loaded = load(NAME, weights=saved(tmp_path, state), **SMALL)
    assert same(loaded, state) and loaded.preprocess.channels == channels
    assert f"built for {channels} channels" in loaded.said[0]


def test_average_pooling_is_read_off_the_weights(tmp_path):
    state = timm.create_model(NAME, global_pool="avg", **EIGHT).state_dict()
    loaded = load(NAME, weights=saved(tmp_path, state), **SMALL)
    assert same(loaded, state) and loaded.ref.kwargs["global_pool"] == "avg" and "fc_norm" in loaded.said[0]


def test_names_of_the_publication_are_converted_as_timm_does(tmp_path):
    name = "vit_small_patch14_dinov2"
    shape = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2}
    state = timm.create_model(name, **shape).state_dict()
    path = saved(tmp_path, state | {"mask_token": torch.zeros(1, 32)})
    loaded = load(name, weights=path, **shape)
    assert same(loaded, state) and "mask_token" in " ".join(loaded.said)


def test_a_file_without_a_classifier_says_how_to_do_without_one(tmp_path):
    state = timm.create_model(NAME, num_classes=0, **SMALL).state_dict()
    with pytest.raises(InputError, match="num_classes=0"):
        load(NAME, weights=saved(tmp_path, state), **SMALL)


def test_a_folder_of_timms_brings_architecture_weights_preprocessing_and_names(tmp_path):
    model = timm.create_model(NAME, img_size=32, num_classes=3)
    config = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "crop_pct": 1.0, "interpolation": "bilinear"}
    from timm.models import save_for_hf

    model.pretrained_cfg = dict(model.pretrained_cfg, **config)
    save_for_hf(
        model, tmp_path, safe_serialization=True,
        model_config={"label_names": ["cat", "dog", "cow"]}, model_args={"img_size": 32},
    )  # fmt: skip
    for name in (str(tmp_path), f"local-dir:{tmp_path}"):
        loaded = load(name)
        assert same(loaded, model.state_dict()) and loaded.classes == ("cat", "dog", "cow")
        assert loaded.preprocess.mean == (0.5, 0.5, 0.5) and loaded.preprocess.crop_pct == 1.0
        assert (loaded.preprocess.interpolation, loaded.preprocess.size) == ("bilinear", (32, 32))
        assert loaded.ref.name == NAME and loaded.ref.weights == "file"
    assert load(str(tmp_path), random_weights=True).ref.weights == "random"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[1]", "is damaged"),
        ('{"model_type": "vit", "hidden_size": 192}', "transformers cannot load it: .*model.safetensors"),
        ('{"hidden_size": 192}', "no architecture and no model_type"),
        ('{"architecture": "vit_tiny_patch16_224"}', "has no weights"),
        ('{"architecture": 3}', "unknown model|is damaged|has no weights"),
        ('{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": 7}', "is damaged"),
    ],
)
def test_a_folder_that_is_none_of_timms_is_refused_in_a_line(text, message, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load(f"local-dir:{tmp_path}")


def test_options_in_a_folder_are_checked_like_the_users(tmp_path, state):
    save_file(state, tmp_path / "model.safetensors")
    config = {"architecture": NAME, "model_args": {"checkpoint_path": "/etc/passwd"}, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="checkpoint_path"):
        load(str(tmp_path))
