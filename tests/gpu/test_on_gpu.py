"""On a GPU a model answers as on the CPU, all of it runs there, and its time is that of the work."""

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.families import CLOSE, VARIANTS, make
from timm.models.vision_transformer import VisionTransformer

from foveate.adapters import adapt, describe
from foveate.methods import METHODS
from foveate.plans import Step
from foveate.runtimes import RUNTIMES, Runner, Worker, _cuda

GPU = "cuda:0"
APART = {("vittm", "pitome"): {"atol": 2e-3, "rtol": 2e-3}}  # 0.0009 on an H100; why is not known, all others are CLOSE
FLOOR_DB = {"fp32": 80.0, "bf16": 25.0, "fp16": 40.0}
TORCH = ("eager", "compile")
CAPTURED = (  # one of each way to embed, to attend and to end; exporting takes seconds
    "deit_distilled", "siglip", "dinov3", "eva02", "pe_core", "vittm", "segmenter_dinov3", "dense_dinov2", "iret",
)  # fmt: skip


def sqnr_db(reference, other):
    return float(10 * np.log10((reference**2).sum() / max(((reference - other) ** 2).sum(), 1e-30)))


def images(batch, size=64, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, size, size)).astype(np.float32)


def small(**more) -> torch.nn.Module:
    """A ViT with weights off their start, but tame: half precision is tried on it."""
    torch.manual_seed(0)
    shape = {"img_size": 64, "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 10}
    vit = VisionTransformer(**shape | more).eval()
    with torch.no_grad():
        for p in vit.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return vit


def stepped(model, method):
    f = describe(model)
    return adapt(model, [Step(block=b, method=method, tokens=f.prefix + n) for b, n in ((0, 11), (1, 6))]).eval()


def able(variant):
    f = describe(make(variant))
    return [m for m in METHODS if f.has_class_token or "class_row" not in METHODS[m].needs]


def loaded(model, folder, precision="fp32", batch=1, runtime="eager", shape=None) -> Runner:
    shape = shape or (batch, 3, 64, 64)
    file = RUNTIMES[runtime].build(model, folder, shape=shape, precision=precision, device=GPU)
    return RUNTIMES[runtime].load(file, precision=precision, threads=1, device=GPU)


@pytest.mark.parametrize("variant", list(VARIANTS))
@torch.no_grad()
def test_every_method_answers_as_on_the_cpu_with_as_many_tokens(variant):
    model, x = make(variant), torch.from_numpy(images(2))
    for method in able(variant):
        reduced = stepped(model, method)
        wanted = reduced(x)
        there = reduced.to(GPU)
        tokens = there.embed(x.to(GPU))
        out, left = there(x.to(GPU)), there.blocks(tokens).x
        assert out.device == left.device == torch.device(GPU), method
        assert left.shape[1] == reduced.schedule.after[-1], method
        near = APART.get((variant, method), CLOSE)
        torch.testing.assert_close(out.cpu(), wanted, **near, msg=lambda text, m=method: f"{m}: {text}")
        model.cpu()


@pytest.mark.parametrize("method", list(METHODS))
@torch.no_grad()
def test_a_built_plan_answers_as_on_the_cpu(method, tmp_path):
    reduced, x = stepped(make("vit"), method), images(4)
    run, wanted = loaded(reduced, tmp_path, batch=4), reduced(torch.from_numpy(x)).numpy()
    assert sqnr_db(wanted, run(x)) >= FLOOR_DB["fp32"]


@pytest.mark.parametrize("variant", CAPTURED)
@torch.no_grad()
def test_every_family_is_captured_and_answers_as_on_the_cpu(variant, tmp_path):
    reduced, x = stepped(make(variant), "tome"), images(1)
    wanted = reduced(torch.from_numpy(x)).numpy()
    assert sqnr_db(wanted, loaded(reduced, tmp_path)(x)) >= FLOOR_DB["fp32"]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("precision", list(FLOOR_DB))
@torch.no_grad()
def test_every_precision_and_the_answer_follows_the_input(precision, batch, tmp_path):
    if reason := RUNTIMES["eager"].why_not(precision, GPU):
        pytest.skip(reason)
    model = small()
    run = loaded(model, tmp_path, precision, batch)
    answers = []
    for seed in (1, 2, 1):
        x = images(batch, seed=seed)
        answers.append(run(x))
        assert sqnr_db(model(torch.from_numpy(x)).numpy(), answers[-1]) >= FLOOR_DB[precision]
    assert np.array_equal(answers[0], answers[2]) and not np.array_equal(answers[0], answers[1])


@torch.no_grad()
def test_an_open_shape_is_captured_shape_by_shape(tmp_path):
    blocks = torch.nn.Sequential(*small().blocks.children()).eval()
    run = loaded(blocks, tmp_path, shape=(1, None, 64))
    for n in (5, 17, 5):
        x = np.random.default_rng(n).standard_normal((1, n, 64)).astype(np.float32)
        np.testing.assert_allclose(run(x), blocks(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-4)


# No fallback


@pytest.mark.parametrize("runtime", TORCH)
def test_a_model_takes_memory_there_and_answers(runtime, tmp_path):
    if reason := RUNTIMES[runtime].why_not("fp16", GPU):
        pytest.skip(reason)
    model, x = small(embed_dim=256), images(1)
    file = RUNTIMES[runtime].build(model, tmp_path, shape=(1, 3, 64, 64), precision="fp16", device=GPU)
    with Worker(runtime, threads=1, device=GPU) as worker:
        worker.load("m", file, precision="fp16")
        out = worker.run("m", x, batch=1)
        facts = worker.facts()
    with torch.no_grad():
        assert sqnr_db(model(torch.from_numpy(x)).numpy(), out) >= FLOOR_DB["fp16"]
    assert facts["device"] == GPU and facts["name"] == torch.cuda.get_device_name(0)
    assert facts["peak_allocated_bytes"] > x.nbytes
    if runtime == "eager":  # a package's weights are its own, not torch's to count
        assert facts["allocated_bytes"] >= 2 * sum(p.numel() for p in model.parameters())


def test_a_model_that_stayed_on_the_cpu_does_not_pass():
    with pytest.raises(RuntimeError):
        _cuda.Replay(small(), GPU)(images(1))


# Timing


def median_ms(call, rounds=20):
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return float(np.median(times)) * 1e3


def sees_the_work(less, more) -> bool:
    """Does a model with a hundred times the work take longer? As many kernels are launched for either."""
    return median_ms(more) > 2 * median_ms(less)


@pytest.fixture
def pair(tmp_path):
    """(Runner, input) of the same blocks, narrow for one image and wide for sixteen."""
    found = []
    for name, width, batch in (("less", 128, 1), ("more", 1024, 16)):
        model = small(embed_dim=width, img_size=224, depth=4)
        run = loaded(model, tmp_path / name, "fp32", batch, shape=(batch, 3, 224, 224))
        found.append((run, images(batch, 224)))
    return found


def test_a_time_holds_the_work(pair):
    less, more = ((lambda run=run, x=x: run(x)) for run, x in pair)
    assert sees_the_work(less, more)
    less, more = (run.resident(x) for run, x in pair)
    assert sees_the_work(less, more)
    assert median_ms(more) < median_ms(lambda: pair[1][0](pair[1][1]))  # and without the copies it is shorter


def test_a_runner_that_does_not_wait_is_caught(pair, monkeypatch):
    calls = [run.resident(x) for run, x in pair]
    monkeypatch.setattr(_cuda, "wait", lambda device: None)
    assert not sees_the_work(*calls)


def test_a_runner_that_does_not_wait_takes_no_time(pair, monkeypatch):
    run, x = pair[1]
    call = run.resident(x)
    waited = median_ms(call)
    monkeypatch.setattr(_cuda, "wait", lambda device: None)
    assert median_ms(call) < waited / 2


def test_a_worker_times_the_work(tmp_path):
    ms = []
    with Worker("eager", threads=1, device=GPU) as worker:
        for i, (width, batch) in enumerate(((128, 1), (1024, 16))):
            model, shape = small(embed_dim=width, img_size=224, depth=4), (batch, 3, 224, 224)
            file = RUNTIMES["eager"].build(model, tmp_path / str(i), shape=shape, precision="fp32", device=GPU)
            worker.load(str(i), file, precision="fp32")
        x = [images(1, 224), images(16, 224)]
        for resident in (False, True):
            ms.append(np.median(worker.time(["0", "1"], x, rounds=20, resident=resident), axis=1))
    assert all(2 * less < more for less, more in ms)
    assert ms[1][1] < ms[0][1]


def test_peaks_rise_with_fewer_bits():
    from foveate.hardware.peaks import measure_peaks

    found = {r.tags["precision"]: r.value for r in measure_peaks(device=GPU, seconds=0.2) if "precision" in r.tags}
    assert list(found) == ["fp32", "bf16", "fp16"]
    assert all(half > found["fp32"] for half in (found["bf16"], found["fp16"]))


def test_a_profile_on_the_gpu_rises_with_tokens(tmp_path, monkeypatch):
    from foveate.profiling import profile
    from foveate.target import Target

    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path))
    target = Target(device=GPU, precision="fp16", batch=16)
    found = profile(small(embed_dim=768, img_size=224, depth=4), target, methods=("tome",), seconds=5, patience_s=0)
    curve = found.table.block
    assert found.target.device == GPU and curve.ms[-1] > 1.5 * curve.ms[0]
    assert all(a < b for a, b in pairwise(curve.tokens)) and found.table.fixed_ms > 0


# The main job


@pytest.mark.parametrize("variant", ["vit", "dinov3", "dense", "features"])
def test_plans_are_scored_there_as_on_the_cpu(variant):
    from foveate.planning.evaluator import Evaluator

    model, x = make(variant), images(12)
    steps = [Step(block=b, method="tome", tokens=describe(model).prefix + n) for b, n in ((0, 11), (1, 6))]
    wanted = Evaluator(model, x, chunk=6).score(steps)
    found = Evaluator(model.to(GPU), x, chunk=6).score(steps)
    np.testing.assert_allclose(found.distance, wanted.distance, rtol=1e-2, atol=1e-4)


def test_a_fit_from_end_to_end(tmp_path, monkeypatch):
    import foveate
    from foveate.fitting.job import fit

    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    found = fit(device=GPU, runtime="eager", precision="fp16", seconds=30, out=tmp_path / "out")
    assert found.plan.target.device == GPU and (tmp_path / "out" / "verdict.json").exists()
    assert foveate.open(tmp_path / "out")(images(2, 224)).shape == (2, 10)
