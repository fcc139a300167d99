"""Profiles of real models: their parts, their key, the cache, every runtime."""

from itertools import pairwise

import pytest
import torch
from support.devices import WORKED, FakeMeter, profiled, vit

from foveate.adapters import adapt
from foveate.errors import InputError
from foveate.plans import Step
from foveate.profiling.measure import key_of, lowest
from foveate.target import Target


def eva():
    from timm.models.eva import Eva

    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    return Eva(**shape, use_rot_pos_emb=True).eval()


@pytest.mark.parametrize("host", [vit, eva])
@torch.no_grad()
def test_the_parts_are_the_model(host):
    from foveate.profiling.stack import Ends, Stack

    model, image = host(), torch.randn(2, 3, 32, 32)
    reduced = adapt(model)
    tokens = reduced.embed(image)
    torch.testing.assert_close(Ends(reduced)(image), reduced.finish(tokens))
    stack, attention = Stack(reduced), Stack(reduced, attention_only=True)
    stack.exit = attention.exit = torch.nn.Identity()
    if added := stack.added:
        tokens.x[:, :added] = 0.0
    else:
        torch.testing.assert_close(reduced.finish(tokens._replace(x=stack(tokens.x))), model(image))
    torch.testing.assert_close(stack(tokens.x[:, added:]), reduced.blocks(tokens).x)
    halves = tokens
    for block in range(3):
        halves = reduced.attend(block, halves, None)
    torch.testing.assert_close(attention(tokens.x[:, added:]), halves.x)
    assert stack(tokens.x[:, added:40]).shape == (2, 40, 32)


@pytest.mark.parametrize("host", [vit, eva])
@torch.no_grad()
def test_reductions_are_those_of_an_adapted_model(host):
    from torch import nn

    from foveate.profiling.stack import Reductions

    model, x = host(), torch.randn(2, 60, 32)
    stack = Reductions(model, "tome", [50, 41])
    stack.exit = nn.Identity()
    reduced = adapt(model, [Step(block=1, method="tome", tokens=50), Step(block=2, method="tome", tokens=41)])
    tokens = adapt(model).embed(torch.randn(2, 3, 32, 32))
    rope = None if tokens.rope is None else tokens.rope[:, : 60 - tokens.prefix]
    tokens = tokens._replace(x=x, size=tokens.size[:, :60], rope=rope)
    torch.testing.assert_close(stack(x), reduced.blocks(tokens).x)
    free = Reductions(model, None, [50, 41])
    assert free(x).shape[1] == 41 and not free.reduced.reducers
    assert Reductions(model, "tome", [40])(x).shape[1] == 40


@pytest.mark.parametrize(
    "tokens, prefix, depth", [(197, 1, 12), (198, 2, 12), (65, 1, 3), (17, 1, 2), (4, 1, 1), (1025, 0, 40)]
)
@pytest.mark.parametrize("share", [0.3, 0.4, 0.8, 1.0])
def test_trials_descend_about_the_count_asked_for(tokens, prefix, depth, share):
    from foveate.profiling.stack import trial

    n = prefix + max(2, int((tokens - prefix) * share))
    start, counts = trial(n, tokens, prefix, depth)
    falling = [start, *counts]
    assert start <= tokens and all(a > b >= prefix + 2 for a, b in pairwise(falling))
    assert 1 <= len(counts) <= min(2, depth) and all(b - prefix >= (a - prefix) / 2 for a, b in pairwise(falling))
    if tokens > 64 and share < 1:
        assert abs(sum(falling) / len(falling) / n - 1) < 0.1


def test_the_key_sees_structure_and_settings_but_no_weights():
    from foveate.adapters import describe

    def key(model, *settings):
        return key_of(model, describe(model), settings)

    other = vit()
    with torch.no_grad():
        other.head.bias.add_(1)
    assert key(vit(), 1) == key(other, 1)
    assert len({key(vit(), 1), key(vit(), 2), key(vit(depth=4), 1), key(vit(qk_norm=True), 1), key(eva(), 1)}) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"threads": 0},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"runtime": "abacus"},
        {"precision": "fp3"},
        {"device": "tpu"},
        {"methods": ("tomee",)},
    ],
)
def test_arguments_are_checked_before_anything_is_measured(wrong):
    with pytest.raises(InputError, match=str(next(iter(wrong.values())))[:5].strip("(',")):
        profiled(vit(), **wrong)


def test_a_method_that_needs_a_class_token():
    blind = vit(class_token=False, global_pool="avg")
    with pytest.raises(InputError, match="topk"):
        profiled(blind, methods=("topk",))


def check_end_to_end(model, tokens, **kwargs):
    told = []
    wanted = {"threads": 1, "methods": ("tome",), "seconds": 0.1, "load": WORKED} | kwargs  # so nothing is done twice
    found = profiled(model, progress=lambda *a: told.append(a), **wanted)
    assert found.table.block.tokens[0] == lowest(tokens, found.prefix) and found.table.block.tokens[-1] == tokens
    assert min(found.table.block.ms) > 0 and min(found.table.attention.ms) > 0 and found.table.fixed_ms > 0
    assert found.dense_ms > 0 and found.reference_ms > 0 and set(found.table.reduce) == {"tome"} and told
    assert found.target.threads == 1 and "make (7) 1.7" in str(found.disturbed)
    assert profiled(model, **wanted) == found  # from the cache


@pytest.mark.slow  # the fit in test_fitting makes one, too
def test_a_profile_in_plain_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    check_end_to_end(vit(img_size=16, depth=2), 17, runtime="eager")


def test_the_cache_serves_until_asked_for_fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    monkeypatch.setattr("foveate.profiling.meter.RuntimeMeter", FakeMeter)
    FakeMeter.made.clear()
    runs = []
    for more in ({}, {}, {"fresh": True}, {"batch": 2}, {"methods": ("tome",)}):
        profiled(vit(), **{"threads": 1, "methods": ("topk",), "batch": 1} | more)
        runs.append(len(FakeMeter.made))
    assert runs == [1, 1, 2, 3, 4]
    everything, cached = {part for part, _ in FakeMeter.made[0].calls}, FakeMeter.made[3].calls
    assert everything == {"ends", "attention", "blocks", "reduce:topk"}
    assert {part for part, _ in cached} == {"reduce:tome"}


@pytest.mark.slow
@pytest.mark.parametrize("host", [vit, eva])
@pytest.mark.parametrize(
    "runtime, precision",
    [("eager", "bf16"), ("compile", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"),
     ("openvino", "bf16"), ("openvino", "int8")],
)  # fmt: skip
def test_a_profile_in_every_runtime(monkeypatch, tmp_path, host, runtime, precision):
    from foveate.runtimes import RUNTIMES

    if reason := RUNTIMES[runtime].why_not(precision):
        pytest.skip(reason)
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    check_end_to_end(host(), 65, runtime=runtime, precision=precision, batch=2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_reductions_in_an_int8_model_are_timed_in_what_they_stay_in(runtime):
    from foveate.profiling.meter import RuntimeMeter
    from foveate.runtimes import RUNTIMES

    if (reason := RUNTIMES[runtime].why_not("int8")) is not None:
        pytest.skip(reason)
    with RuntimeMeter(vit(), Target(runtime=runtime, precision="int8", threads=1)) as meter:
        (point,) = meter.reduce(["topk"], 40)
        inside = {name: part.precision for name, part in meter.parts.items()}
    stays = RUNTIMES[runtime].beside_int8("cpu")
    assert inside == {"none 40": stays, "topk 40": stays, "blocks": "int8"} and stays != "int8"
    assert point.part == "reduce:topk" and point.rounds >= 5


def test_parts_built_beforehand_are_those_that_are_timed(monkeypatch):
    from foveate.profiling.meter import RuntimeMeter
    from foveate.runtimes import RUNTIMES
    from foveate.runtimes._export import sharing_graphs

    if (reason := RUNTIMES["onnxruntime"].why_not("int8")) is not None:
        pytest.skip(reason)
    told = []
    whole = RuntimeMeter(vit(), Target(runtime="onnxruntime", precision="int8", threads=1))
    with sharing_graphs(), whole as meter:  # as in a fit: a graph that is shared is gone when the next is made
        meter.build(["topk"], [40, 20], told.append)
        parts = dict(meter.parts)
        assert set(parts) == {"blocks", "attention", "ends", "none 40", "topk 40", "none 20", "topk 20"}
        assert len(told) == 7 and len({part.file for part in parts.values()}) == 7
        monkeypatch.setattr(meter, "runtime", None)  # nothing more is built
        assert meter.ends()[0].ratio > 0 and len(meter.reduce(["topk"], 40)) == 1
        assert len(meter.attention([20, 40])) == len(meter.blocks([20, 65])) == 2


def test_what_fails_or_is_stopped_while_building_ends_the_converters(monkeypatch):
    from foveate.profiling import meter
    from foveate.runtimes import worker

    stopped = []
    monkeypatch.setattr(meter, "stop_converting", lambda: stopped.append(worker.stop_converting()))
    with meter.RuntimeMeter(vit(), Target(runtime="onnxruntime", threads=1)) as made:
        monkeypatch.setattr(made, "_ends", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.build(["topk"], [40, 20], lambda line: None)
    assert stopped == [None]
