"""An artefact opens on the plan's device, or on another of its kind; what this machine lacks is said."""

import pytest

from foveate.artefact import Artefact, write_card
from foveate.errors import InputError
from foveate.plans import ModelRef, Plan
from foveate.preprocess import Preprocess
from foveate.runtimes import RUNTIMES, Runner
from foveate.target import Target


@pytest.fixture
def folder(tmp_path):
    model = ModelRef(name="m", weights="random", tokens=17, depth=2, prefix=1)
    plan = Plan(model=model, target=Target(runtime="eager", device="cuda", threads=3))
    (tmp_path / "m.pt2").touch()
    write_card(tmp_path, plan, "m.pt2", Preprocess(size=(64, 64)), None, None)
    return tmp_path


def test_the_device_reaches_the_runner(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(RUNTIMES["eager"], "why_not", classmethod(lambda cls, precision, device: None))
    monkeypatch.setattr(
        RUNTIMES["eager"],
        "load",
        classmethod(lambda cls, path, **how: asked.append(how) or Runner(lambda x: x, (None,))),
    )
    for device in (None, "cuda:1", "cpu"):
        opened = Artefact(folder, device=device, trust=True)  # a file that nobody built
        assert opened.target.device == asked[-1]["device"] and opened.plan.target.device == "cuda"
    assert [how["device"] for how in asked] == ["cuda", "cuda:1", "cpu"] and asked[0]["threads"] == 3


def test_a_device_that_is_not_there_is_said(folder, monkeypatch):
    monkeypatch.setattr("foveate.runtimes._torch.no_gpu", lambda device: "no GPU found: none is plugged in")
    with pytest.raises(InputError, match="eager cannot run fp32 here: no GPU found: none is plugged in"):
        Artefact(folder)
    with pytest.raises(InputError, match="'tpu' is no device"):
        Artefact(folder, device="tpu")
