"""The command: a folder as hubs have it, pictures, a question, a budget."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import vlms

from foveate.budgets import sizes
from foveate.commands.vlm import answer, parse
from foveate.errors import InputError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlms.folder(tmp_path_factory.mktemp("vlm") / "llava")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    where = tmp_path_factory.mktemp("pictures")
    made = []
    for name, size in (("square.png", (90, 100)), ("long.jpg", (170, 60))):
        Image.effect_noise(size, 80).convert("RGB").save(where / name)
        made.append(where / name)
    return made


def full(width: int, height: int) -> int:
    return sizes.anyres((height, width), vlms.PINPOINTS, tile=56, grid=4).tokens


def test_an_answer_with_a_budget(folder: Path, pictures: list[Path]):
    said = answer(str(folder), pictures, "what is in this picture ?", budget=parse("0.3").budget, max_new_tokens=5)
    wanted = [(int(0.3 * full(90, 100)), full(90, 100)), (int(0.3 * full(170, 60)), full(170, 60))]
    assert said.tokens == wanted and 1 <= said.new_tokens <= 5
    assert said.prompt_tokens == sum(stays for stays, _ in wanted) + len(
        ["USER", ":", "what", "is", "in", "this", "picture", "?", "ASSISTANT", ":"]
    )
    assert 0 < said.first_ms <= said.total_ms


def test_what_stays_is_drawn(folder: Path, pictures: list[Path], tmp_path: Path):
    said = answer(
        str(folder), pictures, "what ?", budget=parse("0.3").budget, max_new_tokens=1, draw=tmp_path / "drawn"
    )
    assert [Path(name).name for name in said.drawn] == ["0-square.png", "1-long.png"]
    for name in said.drawn:
        with Image.open(name) as drawn:
            assert drawn.height == 480


def test_all_tokens_answer_as_the_plain_model(folder: Path, pictures: list[Path]):
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    said = answer(str(folder), pictures[:1], "what is this ?", budget=parse("1.0").budget, max_new_tokens=6)
    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
    text = "USER : <image> what is this ? ASSISTANT :"
    inputs = processor(images=[Image.open(pictures[0])], text=text, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert said.text == processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert said.tokens == [(full(90, 100), full(90, 100))]


def test_without_a_chat_template(tmp_path: Path, pictures: list[Path]):
    plain = vlms.folder(tmp_path / "plain", chat=False)
    said = answer(str(plain), pictures, "what is this ?", budget=parse("20").budget, max_new_tokens=2)
    assert [stays for stays, _ in said.tokens] == [20, 20]


def test_the_command(folder: Path, pictures: list[Path]):
    words = ["vlm", "generate", str(folder), "--image", str(pictures[0]), "--budget", "0.25", "--max-new-tokens", "3"]
    ran = subprocess.run(
        [sys.executable, "-m", "foveate", *words, "--json"], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["tokens"] == [[int(0.25 * full(90, 100)), full(90, 100)]]
    assert f"{said['tokens'][0][0]} of {full(90, 100)}" in ran.stderr and "first token" in ran.stderr


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"name": "nowhere/none"}, "cannot get nowhere/none"),
        ({"method": "hire"}, "known: cdpruner"),
        ({"max_new_tokens": 0}, "at least 1"),
        ({"precision": "int4"}, "fp32, bf16, fp16"),
        ({"images": [Path("none.png")]}, "none.png"),
        ({"prompt": "<image> <image> <image> ?"}, "names 3 pictures"),
    ],
)
def test_refused(folder: Path, pictures: list[Path], changed: dict, told: str):
    asked = {"name": str(folder), "images": pictures, "prompt": "what ?", "budget": parse("0.2").budget, **changed}
    with pytest.raises(InputError) as caught:
        answer(asked.pop("name"), asked.pop("images"), asked.pop("prompt"), **asked)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["much", "0", "0.0", "-1", "1.5", "nan", ""])
def test_budgets_refused(text: str):
    with pytest.raises(InputError):
        parse(text)


def test_a_folder_that_is_no_such_model(tmp_path: Path, pictures: list[Path]):
    for content, told in (
        ("{}", "no model that sees"),
        ('{"model_type": "bert"}', "known: internvl"),
        ("{", "no model"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=told):
            answer(str(tmp_path), pictures, "what ?", budget=parse("0.2").budget)


def test_a_limit_instead_of_a_budget(folder: Path, pictures: list[Path]):
    said = answer(str(folder), pictures[:1], "what ?", ttft_ms=1e6, max_new_tokens=1)
    assert said.tokens == [(full(90, 100),) * 2]
    with pytest.raises(InputError, match="with one token it is"):
        answer(str(folder), pictures[:1], "what ?", memory_gb=1e-6, max_new_tokens=1)
    for limits in ({}, {"budget": parse("0.2").budget, "ttft_ms": 5}, {"ttft_ms": 5, "memory_gb": 5}):
        with pytest.raises(InputError, match=r"one of them|one limit"):
            answer(str(folder), pictures, "what ?", **limits)
