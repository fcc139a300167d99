"""A budget fitted to milliseconds or gigabytes: what is decided, what is written, what reads it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support import vlms

import foveate.vlm
from foveate.commands.vlm import answer, parse
from foveate.commands.vlm_fit import fit
from foveate.errors import InputError
from foveate.vlm import fitting, measuring

pytest.importorskip("transformers")
ASK = "what is in this picture ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlms.folder(tmp_path_factory.mktemp("vlm") / "llava")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "square.png"
    Image.effect_noise((90, 100), 80).convert("RGB").save(path)
    return path


@pytest.fixture
def known_times(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs that are real and of which the times are known: 10 ms and a tenth of a millisecond a token."""
    asked: list[int] = []
    real = measuring.first_token_ms

    def known(model, inputs, tokens=None, *, family=None):
        real(model, inputs, tokens, family=family)
        asked.append(tokens)
        return 10 + 0.1 * (tokens or 0)

    patched(monkeypatch, known)
    return asked


def patched(monkeypatch: pytest.MonkeyPatch, known) -> None:
    for module in (measuring, fitting):
        monkeypatch.setattr(module, "first_token_ms", known)


def test_the_most_tokens_within_a_time(folder: Path, picture: Path, known_times: list[int], tmp_path: Path):
    found = fit(str(folder), [picture], ASK, ttft_ms=13.0, pairs=8, out=tmp_path / "out")
    full = found.kept[0][1]
    assert found.met and 26 <= found.tokens <= 30 and 0.95 * 13.0 <= found.value <= 13.0
    assert found.speedup.low > 1 and found.speedup.value == pytest.approx((10 + 0.1 * full) / found.value)
    assert set(found.stages) == {"all", "kept"} and all(ms >= 0 for ms in found.stages["kept"].values())
    assert full in known_times and found.tokens in known_times
    said = json.loads((tmp_path / "out" / "budget.json").read_text())
    assert (
        said["tokens"] == found.tokens and said["speedup"]["low"] > 1 and "cpu" in json.dumps(said["machine"]).lower()
    )
    read = parse(str(tmp_path / "out"))
    assert read == parse(str(tmp_path / "out" / "budget.json"))
    assert (read.budget.tokens, read.method, read.encoder) == (found.tokens, "hired", None)
    assert found.cost["kl"] >= 0 and [p["tokens"] for p in found.curve] == sorted(p["tokens"] for p in found.curve)
    assert sum(found.per_part[0]) <= found.tokens and len(found.per_part[0]) == 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and f"{found.tokens} of {full} tokens" in page
    assert [f"<td>{part}</td>" in page for part in ("whole view", "tile 4", "tile 5")] == [True, True, False]
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == ["0-square.png", "budget.json", "report.html"]


def test_never_slower(folder: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A count that keeps within a memory and is slower than all tokens is not handed back."""
    patched(monkeypatch, lambda model, inputs, tokens=None, family=None: 10 - 0.01 * (tokens or 0))
    for module in (measuring, fitting):
        monkeypatch.setattr(module, "peak_bytes", lambda run, device: (1 + run_tokens(run)) * 1e9)
    found = fit(str(folder), [picture], ASK, memory_gb=20.0, pairs=8, out=tmp_path / "out")
    assert not found.met and "not proven faster" in found.reason
    with pytest.raises(InputError, match="found no budget"):
        parse(str(tmp_path / "out"))


def run_tokens(run) -> int:
    """The count that a closure of `fit` measures."""
    cells = dict(zip(run.__code__.co_freevars, (c.cell_contents for c in run.__closure__), strict=True))
    return cells.get("tokens") or 0


def test_what_did_not_hold_is_not_claimed(folder: Path, picture: Path, monkeypatch: pytest.MonkeyPatch):
    """A search on a quiet machine, a proof on one twice as slow: not within the limit any more, and not handed back."""
    plain = []

    def known(model, inputs, tokens=None, *, family=None):
        plain.append(family is not None)
        return (20 if sum(plain) else 10) + 0.1 * (tokens or 0)

    patched(monkeypatch, known)
    found = fit(str(folder), [picture], ASK, ttft_ms=13.0, pairs=8)
    assert not found.met and "with one token" in found.reason


def test_how_much_the_encoder_merges_is_searched(folder: Path, picture: Path, monkeypatch, tmp_path: Path):
    """Merging leaves time for more tokens; what moves the answer least is taken, proven, and asked with."""
    asked: list[str | None] = []

    def known(model, inputs, tokens=None, *, family=None):
        tower = getattr(family or foveate.vlm.applied_to(model).family, "tower", None)
        merged = 0 if tower is None else sum(step.tokens for step in tower.steps)
        asked.append(None if tower is None else merged)
        return 10 - (4 if tower else 0) + 0.1 * (tokens or 0)

    patched(monkeypatch, known)
    costs = iter((0.5, 0.2, 0.3, 0.4))
    real = fitting.cost
    monkeypatch.setattr(fitting, "cost", lambda *a: replace(real(*a), kl=next(costs, 1.0)))
    found = fit(str(folder), [picture], ASK, ttft_ms=12.0, pairs=8, encoder="search", out=tmp_path / "out")
    tried = [(o["encoder"], o["tokens"], o["cost"]["kl"]) for o in found.options]
    assert [t[0] for t in tried] == [None, "tome:2", "tome:4", "tome:6"] and len(set(asked)) == 4
    assert tried[0][1] <= 20 < 50 <= tried[1][1] and found.met
    assert (found.encoder, found.tokens) == ("tome:2", tried[1][1]) and "tome:2" in found.reason
    read = parse(str(tmp_path / "out"))
    assert read.encoder == "tome:2"
    said = answer(str(folder), [picture], ASK, budget=read.budget, encoder=read.encoder, max_new_tokens=1)
    assert said.tokens[0][0] == found.tokens
    assert "What the encoder merges" in (tmp_path / "out" / "report.html").read_text()


def test_a_search_of_the_encoder_is_for_time(folder: Path, picture: Path):
    with pytest.raises(InputError, match="--encoder search is for --ttft-ms"):
        fit(str(folder), [picture], ASK, memory_gb=5.0, encoder="search")


def test_all_tokens_where_they_keep(folder: Path, picture: Path):
    for limit in ({"ttft_ms": 1e6}, {"memory_gb": 1e4}):
        found = fit(str(folder), [picture], ASK, **limit)
        assert found.met and found.tokens == found.kept[0][1] and found.speedup is None
        assert found.peak_gb["all"] > 0.01


def test_none_where_none_keeps(folder: Path, picture: Path, tmp_path: Path):
    words = ["vlm", "fit", str(folder), "--image", str(picture), "--ttft-ms", "0.001", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-m", "foveate", *words, "--json"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 3, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["tokens"] is None and "with one token" in said["reason"] and said["floor"] > 0.001


def test_the_peak_is_a_peak():
    import torch

    def block() -> None:
        torch.ones(64 * 2**20, dtype=torch.uint8).sum()

    cpu = torch.device("cpu")
    quiet = measuring.peak_bytes(lambda: None, cpu)
    assert measuring.peak_bytes(block, cpu) - quiet > 48 * 2**20
    assert abs(measuring.peak_bytes(lambda: None, cpu) - quiet) < 32 * 2**20


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "one limit"),
        ({"ttft_ms": 5, "memory_gb": 5}, "one limit"),
        ({"ttft_ms": 0}, "--ttft-ms 0"),
        ({"memory_gb": float("nan")}, "--memory-gb nan"),
    ],
)
def test_limits_refused(folder: Path, picture: Path, limits: dict, told: str):
    with pytest.raises(InputError, match=told):
        fit(str(folder), [picture], ASK, **limits)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"tokens": 1.5}',
        '{"tokens": null}',
        '{"tokens": 5, "encoder": 3}',
        '{"tokens": 5, "method": []}',
    ],
)
def test_damaged_budgets(text: str, tmp_path: Path):
    (tmp_path / "budget.json").write_text(text)
    with pytest.raises(InputError, match=r"budget\.json"):
        parse(str(tmp_path))
