"""What can be served, and how: folders and options, each wrong one named in one line."""

import numpy as np
import pytest
from support.served import expected, images, make_folder

from foveate.errors import InputError
from foveate.serve import Settings
from foveate.serve.served import Served


def test_a_folder_without_points_is_served_whole(tmp_path):
    plain = make_folder(tmp_path / "plain", elastic=False)
    served = Served(Settings(folder=plain))
    assert served.frontier is None and served.latencies == ()
    assert served.tokens(0) == 3 * 17 and served.energy_mj(0) is None
    np.testing.assert_allclose(served.call(images(2), 0), expected(images(2), 0), atol=1e-4)
    with pytest.raises(InputError, match=r"--slo-ms 50: .*no operating points.*foveate fit --points 6 makes them"):
        Served(Settings(folder=plain, slo_ms=50))
    with pytest.raises(InputError, match="--point is 1; allowed: 0 to 0"):
        Served(Settings(folder=plain, point=1))


def test_a_damaged_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        Served(Settings(folder=tmp_path / "none"))
    for file, words in (
        ("plan.json", "plan.json is not a plan"), ("frontier.json", "is not a frontier"),
        ("model.json", "model.json is damaged"), ("preprocess.json", "preprocess.json"),
    ):  # fmt: skip
        damaged = make_folder(tmp_path / file)
        (damaged / file).write_text("{")
        with pytest.raises(InputError, match=words):
            Served(Settings(folder=damaged))
    lacking = make_folder(tmp_path / "lacking")
    (lacking / "points/2/model.onnx").unlink()
    Served(Settings(folder=lacking))  # of which only the whole model is asked
    with pytest.raises(InputError, match=r"lacks its model file points/2/model.onnx"):
        Served(Settings(folder=lacking, slo_ms=50))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slo_ms": 5, "point": 0}, "give one, not both"),
        ({"slo_ms": 0}, "--slo-ms is 0; allowed: above 0"),
        ({"slo_ms": float("nan")}, "--slo-ms is nan"),
        ({"port": 70000}, "--port is 70000; allowed: 0 to 65535"),
        ({"queue": 0}, "--queue is 0"),
        ({"max_body_mb": -1}, "--max-body-mb is -1"),
        ({"workers": 0}, "--workers is 0"),
        ({"name": "a/b"}, "--name is 'a/b'"),
        ({"log_level": "loud"}, "unknown --log-level 'loud'; known: debug"),
        ({"token": "two words"}, "--token holds"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        Settings(folder=tmp_path, **options)


def test_workers_get_the_settings_through_the_environment_and_the_token_apart(tmp_path, monkeypatch):
    import os

    monkeypatch.setenv("FOVEATE_SERVE", "")
    monkeypatch.setenv("FOVEATE_TOKEN", "")
    settings = Settings(folder=tmp_path, slo_ms=50, token="sesame", queue=7)
    settings.to_environment()
    assert "sesame" not in os.environ["FOVEATE_SERVE"]
    assert Settings.from_environment() == settings
