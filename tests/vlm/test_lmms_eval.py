"""lmms-eval runs a task of ours on a model with a budget. Skipped where it is not installed: it brings very much."""

import re
from pathlib import Path

import pytest
from PIL import Image
from support import vlms

pytest.importorskip("lmms_eval")
pytest.importorskip("transformers")

TASK = """
task: budgeted_pictures
dataset_path: parquet
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: generate_until
doc_to_visual: !function asked.pictures
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 3, until: ["\\n"]}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    for n, size in enumerate(((90, 100), (170, 60))):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{n}.png")
    rows = [{"image": str(tmp_path / f"{n}.png"), "question": "what is this ?", "answer": f"w{n}"} for n in (0, 1)]
    features = Features({"image": Picture(), "question": Value("string"), "answer": Value("string")})
    (tmp_path / "tasks").mkdir()
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "tasks" / "budgeted.yaml").write_text(TASK.format(data=tmp_path / "rows.parquet"))
    (tmp_path / "tasks" / "asked.py").write_text("def pictures(doc):\n    return [doc['image'].convert('RGB')]\n")
    return tmp_path / "tasks"


def test_a_task_is_run_with_a_budget(tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from lmms_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lmms_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    folder = vlms.folder(tmp_path / "llava")
    found = simple_evaluate(
        model="foveate", model_args=f"pretrained={folder},budget=0.3", tasks=["budgeted_pictures"], batch_size=1,
        task_manager=TaskManager(include_path=str(tasks)), device="cpu",
    )  # fmt: skip
    assert 0 <= found["results"]["budgeted_pictures"]["exact_match,none"] <= 1
    said = [sample["resps"] for sample in found["samples"]["budgeted_pictures"]]
    assert len(said) == 2
    told = re.search(r"(\d+) of (\d+) tokens of the pictures stayed", capsys.readouterr().err)
    assert told is not None
    kept, full = map(int, told.groups())
    assert full > 100 and 0.27 < kept / full <= 0.3
