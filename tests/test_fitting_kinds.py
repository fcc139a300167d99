"""The main job on models that answer with something else than classes, end to end, through a real runtime."""

import json

import numpy as np
import pytest

import foveate
from foveate.fitting import Budget
from foveate.report import write_report

SMALL = {"img_size": 64, "depth": 4}
QUICK = {"runtime": "onnxruntime", "precision": "fp32", "images": 40, "seconds": 5.0, "methods": ("tome", "uniform")}
KINDS = {
    "embedding": ("vit_tiny_patch16_224", {"num_classes": 0}, "cosine_distance", "changed neighbours"),
    "masks": ("dense_vit_tiny_patch16_224", {"num_classes": 2}, "kl", "changed pixels"),
    "classes": ("vit_tiny_patch16_224", {"num_classes": 1}, "kl", "changed answers"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_is_fitted_written_and_answers(kind, tmp_path):
    name, options, distance, _ = KINDS[kind]
    lines = []
    fitted = foveate.fit(
        name, random_weights=True, options=SMALL | options, out=tmp_path / "out", budget=Budget(max_drop=100),
        say=lines.append, **QUICK,
    )  # fmt: skip
    artefact = foveate.open(fitted.folder)
    assert artefact.outputs == kind == fitted.verdict.outputs
    rows = [json.loads(line) for line in (fitted.folder / "results.jsonl").read_text().splitlines()]
    assert any(r["name"] == distance for r in rows)
    assert not any(r["name"] in ("kl", "cosine_distance") and r["name"] != distance for r in rows)
    x = np.zeros((1, 3, 64, 64), np.float32)
    assert np.isfinite(artefact(x)).all() and artefact(x).ndim == (4 if kind == "masks" else 2)
    assert (artefact.gallery is not None) == (kind == "embedding")
    page = write_report(fitted.folder).read_text()
    assert "unseen" in page and "nan" not in page.lower().split("<script")[0]
    assert any("unseen photographs" in line for line in lines)
