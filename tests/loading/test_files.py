"""Files of weights: those that do not fit, are broken, differ where it is plain what to do, and pickles."""

import argparse
import pickle
import struct

import pytest
import timm
import torch
from support.checkpoints import EIGHT, NAME, SMALL, saved

from foveate.errors import InputError
from foveate.loading import weights as weights_module
from foveate.loading.load import load


# Files that do not fit or are broken.
def test_a_mismatch_names_the_first_keys_and_counts_them(tmp_path, state):
    for key in ("norm.weight", "norm.bias", "blocks.0.norm1.bias", "blocks.0.norm1.weight"):
        del state[key]
    state["extra"] = torch.zeros(1)
    state["pos_embed"] = torch.zeros(1, 10, 32)
    with pytest.raises(InputError) as e:
        load(NAME, weights=saved(tmp_path, state), **SMALL)
    text = str(e.value)
    assert "4 missing (blocks.0.norm1.weight, blocks.0.norm1.bias, norm.weight, ...)" in text
    assert "1 unexpected (extra)" in text
    assert "1 of another shape (pos_embed [1, 10, 32] for [1, 5, 32])" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, state, bad):
    state["blocks.1.mlp.fc1.weight"][0, :2] = bad
    with pytest.raises(InputError, match=r"2 of 4096 values of blocks\.1\.mlp\.fc1\.weight are NaN or infinite"):
        load(NAME, weights=saved(tmp_path, state), **SMALL)


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_truncated_file_is_refused(file, kept):
    data = file.read_bytes()
    file.write_bytes(data[:kept] if kept >= 0 else data[:-100])
    with pytest.raises(InputError, match=r"small\.safetensors are not a whole safetensors file"):
        load(NAME, weights=file, **SMALL)


def test_a_header_that_lies_is_refused(file):
    data = file.read_bytes()
    file.write_bytes(struct.pack("<Q", 2**40) + data[8:])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load(NAME, weights=file, **SMALL)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(NAME, weights=tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        load(NAME, weights=tmp_path)
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(InputError, match=r"unknown type '\.h5'; allowed: \.safetensors"):
        load(NAME, weights=tmp_path / "weights.h5")


# Files of a model that differs where it is plain what to do.
def test_a_classifier_that_was_not_asked_for_is_left_out_and_said(file, state):
    loaded = load(NAME, weights=file, num_classes=0, **SMALL)
    assert loaded.outputs == "embedding" and loaded.classes is None and loaded.note is None
    assert loaded.said == (f"{file}: left out, as the model has no classifier (num_classes=0): head.bias, head.weight",)
    assert all(torch.equal(v, state[k]) for k, v in loaded.model.state_dict().items())
    assert load(NAME, weights=file, **SMALL).said == ()
    assert load(NAME, weights=file, **SMALL, **{"num_classes": 8}).outputs == "classes"


def test_both_classifiers_of_a_distilled_model_are(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    torch.manual_seed(0)
    path = saved(tmp_path, timm.create_model(name, **EIGHT).state_dict())
    (line,) = load(name, weights=path, num_classes=0, **SMALL).said
    assert line.endswith("head.bias, head.weight, head_dist.bias, head_dist.weight")


@pytest.mark.parametrize("options", [{"num_classes": 0}, {}])
def test_anything_else_too_many_is_refused(tmp_path, state, options):
    """With a stray tensor beside them the classifier's stay unexpected; without a classifier, missing."""
    del state["head.bias"]
    if options:
        state["stray"] = torch.zeros(1)
    with pytest.raises(
        InputError, match=r"2 unexpected \(head.weight, stray\)" if options else r"1 missing \(head.bias"
    ):
        load(NAME, weights=saved(tmp_path, state), **SMALL, **options)


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), [(NAME, {}), ("vit_small_patch14_reg4_dinov2", {"num_classes": 8})])
def test_positions_of_another_image_size_are_resampled_and_said(name, options, tmp_path):
    torch.manual_seed(0)
    large = timm.create_model(name, **{**EIGHT, **options, "img_size": 64, "patch_size": 16}).eval()
    path = saved(tmp_path, large.state_dict())
    loaded = load(name, weights=path, patch_size=16, **SMALL, **options)
    assert loaded.said == (
        f"{path}: pos_embed resampled from 4 x 4 patches to 2 x 2: the model takes 32 x 32 pixels, the file's took "
        "64 x 64",
    )
    large.set_input_size(32)  # timm's own way
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(loaded.model(image), large(image))


def test_positions_that_are_no_square_grid_are_not(tmp_path, state):
    state["pos_embed"] = torch.zeros(1, 1 + 6, 32)
    with pytest.raises(InputError, match=r"1 of another shape \(pos_embed \[1, 7, 32\] for \[1, 5, 32\]\)"):
        load(NAME, weights=saved(tmp_path, state), **SMALL)


def test_a_reference_builds_the_same_model_again(tmp_path):
    """What a plan writes down of options is enough, though the file is of another model."""
    torch.manual_seed(0)
    path = saved(tmp_path, timm.create_model(NAME, **{**EIGHT, "img_size": 48}).state_dict())
    first = load(NAME, weights=path, num_classes=0, **SMALL)
    ref = type(first.ref).model_validate_json(first.ref.model_dump_json())
    again = load(ref.name, weights=path, **ref.kwargs)
    assert again.ref == ref and again.said == first.said and len(first.said) == 2


def test_a_count_that_nothing_reads_may_be_missing(tmp_path):
    name, options = "dense_vit_tiny_patch16_224", {**EIGHT, "channels": (8, 4)}
    torch.manual_seed(0)
    state = timm.create_model(name, **options).state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = saved(tmp_path, state)
    loaded = load(name, weights=path, channels=(8, 4), **SMALL)
    assert loaded.outputs == "masks" and loaded.ref.kwargs["num_classes"] == 8
    state.pop("decoder.bn1.running_mean")
    with pytest.raises(InputError, match=r"1 missing \(decoder.bn1.running_mean\)"):
        load(name, weights=saved(tmp_path, state), channels=(8, 4), **SMALL)


# Pickles.
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}])
def test_pickles_of_tensors_need_no_leave(tmp_path, state, wrap):
    path = tmp_path / "small.pth"
    torch.save(wrap(state), path)
    loaded = load(NAME, weights=path, **SMALL)
    assert all(torch.equal(v, state[k]) for k, v in loaded.model.state_dict().items())


def test_a_training_scripts_arguments_do_not_stand_in_the_way(tmp_path, state):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": state, "args": argparse.Namespace(lr=1)}, path)
    assert load(NAME, weights=path, allow_pickle=True, **SMALL).ref.tokens == 5


def test_safe_unpickling_is_tried_first(tmp_path, state, monkeypatch):
    path = tmp_path / "small.pt"
    torch.save(state, path)
    real, seen = torch.load, []

    def spy(*args, **kwargs):
        seen.append(kwargs["weights_only"])
        return real(*args, **kwargs)

    monkeypatch.setattr(weights_module.torch, "load", spy)
    load(NAME, weights=path, allow_pickle=True, **SMALL)
    assert seen == [True]


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(7), pickle.dumps({"a": 1})])
def test_pickles_that_hold_no_tensors_are_refused(tmp_path, content):
    path = tmp_path / "odd.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"odd\.bin"):
        load(NAME, weights=path, allow_pickle=True, **SMALL)


def test_a_truncated_pickle_is_refused(tmp_path, state):
    path = tmp_path / "cut.pth"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cut\.pth"):
        load(NAME, weights=path, allow_pickle=True, **SMALL)
