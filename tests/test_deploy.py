"""The deployment files name what is there: options, paths and metrics."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

DEPLOY = Path(__file__).parent.parent / "deploy"


def test_the_dashboard_draws_metrics_that_are_exported():
    from foveate.serve.metrics import Metrics

    served = SimpleNamespace(name="tiny", tokens=lambda point: 1, energy_mj=lambda point: None, frontier=None)
    metrics = Metrics(served)
    metrics.watch(SimpleNamespace(depth=0, point=0, slowdown=1.0))
    known = set(re.findall(r"^# TYPE (\w+) ", metrics.text().decode(), re.M))
    text = (DEPLOY / "grafana.json").read_text(encoding="utf-8")
    board = json.loads(text)
    used = set(re.findall(r"foveate_\w+", json.dumps(board["panels"])))
    assert used and {name.removesuffix("_bucket") for name in used} <= known
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 8


@pytest.mark.parametrize("name", ["Dockerfile", "kserve.yaml"])
def test_options_and_paths_exist(name):
    from typer.testing import CliRunner

    from foveate.cli import app

    text = (DEPLOY / name).read_text(encoding="utf-8")
    told = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    told = re.sub(r"\x1b\[[0-9;]*m", "", told)
    options = re.findall(r"\"(--[a-z-]+)\"", text)
    assert options and all(option in told for option in options)
    assert all(path in ("/v2/health/ready", "/v2/health/live") for path in re.findall(r"/v2/[a-z/]+", text))
