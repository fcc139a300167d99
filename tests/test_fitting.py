"""The main job, end to end, on the bundled model and photographs, through a real runtime."""

import json
import shutil

import numpy as np
import pytest

import foveate
from foveate.errors import InputError
from foveate.fitting import Budget
from foveate.preprocess import read_image

QUICK = {"runtime": "onnxruntime", "precision": "fp32", "images": 40, "seconds": 5.0}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "out"
    return foveate.fit(out=folder, budget=Budget(max_drop=30), **QUICK)


def test_writes_everything_and_nothing_half(fitted):
    names = {p.name for p in fitted.folder.iterdir()}
    assert {"plan.json", "model.json", "preprocess.json", "results.jsonl", "verdict.json", "report.html"} <= names
    assert not [p for p in fitted.folder.parent.iterdir() if p != fitted.folder]
    assert fitted.exit_code == (0 if fitted.met else 3)


def test_a_plan_is_handed_back_only_if_proven(fitted):
    if fitted.faster:
        assert fitted.speedup is not None
        assert fitted.speedup.low > 1
        assert not fitted.plan.dense
    else:
        assert fitted.plan.dense
        assert fitted.reason


def test_the_written_folder_answers_and_matches_the_plan(fitted, photos):
    artefact = foveate.open(fitted.folder)
    assert artefact.plan == fitted.plan
    logits = artefact(np.stack([artefact.preprocess(read_image(p)) for p in photos]))
    assert logits.shape == (len(photos), 10)
    names = [name for name, _ in artefact.top(photos[0])]
    assert len(names) == 5
    assert set(names) <= set(artefact.classes)


def test_every_result_carries_its_origin(fitted):
    for line in (fitted.folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert {"threads", "seed"} <= row["origin"].keys(), row["name"]


def test_it_exports_again_from_the_written_plan(fitted, tmp_path, photos):
    from foveate.fitting.exporting import export_plan

    folder = export_plan(fitted.folder, runtime="eager", out=tmp_path / "again")
    x = foveate.open(fitted.folder).preprocess(read_image(photos[0]))[None]
    np.testing.assert_allclose(foveate.open(folder)(x), foveate.open(fitted.folder)(x), atol=1e-3, rtol=1e-3)


def test_a_budget_nobody_can_meet_gives_the_dense_build_and_exit_3(tmp_path):
    outcome = foveate.fit(out=tmp_path / "out", budget=Budget(latency_ms=0.01), **QUICK)
    assert outcome.exit_code == 3
    assert outcome.plan.dense
    assert "0.01 ms" in outcome.reason
    assert foveate.open(tmp_path / "out").plan.dense


def test_a_latency_the_dense_build_meets_is_met_by_it(tmp_path):
    outcome = foveate.fit(out=tmp_path / "out", budget=Budget(latency_ms=1e5), **QUICK)
    assert outcome.exit_code == 0
    assert outcome.plan.dense


def test_a_damaged_folder_is_one_error(fitted, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(fitted.folder, damaged)
    (damaged / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is not a plan"):
        foveate.open(damaged)


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget(), "fastest, at most 1 points lost"),
        (Budget(latency_ms=3), "at most 3 ms"),
        (Budget(speedup=2, max_drop=0.5), "at least 2 times faster, at most 0.5 points lost"),
    ],
)
def test_budgets_say_what_they_are(budget, text):
    assert str(budget) == text
