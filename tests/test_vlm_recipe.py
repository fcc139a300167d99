"""The canvases of the small model that sees: made from their number alone, and asked about truthfully."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")
from recipes import vlm_canvases, vlm_small

CLASSES = ("tench", "church", "golf_ball"), ("dress", "hat", "t-shirt")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two archives laid out as the real ones, a colour a class."""
    made = []
    for n, (names, folders) in enumerate(zip(CLASSES, (("train", "val"), ("train", "test")), strict=True)):
        path = tmp_path_factory.mktemp("data") / f"{n}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for folder in folders:
                for k, name in enumerate(names):
                    file = BytesIO()
                    Image.new("RGB", (40, 30), (80 * k, 100 + 50 * n, 200)).save(file, "PNG")
                    archive.writestr(f"{folder}/{name}/0.png", file.getvalue())
        made.append(path)
    return made


def test_a_canvas_follows_from_its_number(archives: list[Path]):
    photographs = vlm_canvases.Photographs(archives, "train")
    assert photographs.classes == ("ball", "church", "dress", "fish", "hat", "tee")
    one, again, other = (vlm_canvases.canvas(photographs, 0, n) for n in (5, 5, 6))
    assert one.image.tobytes() == again.image.tobytes() and one.questions == again.questions
    assert one.image.tobytes() != other.image.tobytes()


def test_what_is_asked_is_true(archives: list[Path]):
    photographs = vlm_canvases.Photographs(archives, "val")
    half = vlm_canvases.SIDE // 2
    for n in range(40):
        made = vlm_canvases.canvas(photographs, 1, n)
        for item in made.items:
            left, top, right, bottom = item.box
            assert (left // half + 2 * (top // half), right // half + 2 * (bottom // half)) == (item.place,) * 2
        photos = {i.place: i.name for i in made.items if i.photo}
        words = {i.place: i.name for i in made.items if not i.photo}
        for question, answer in made.questions:
            for place, where in enumerate(vlm_canvases.PLACES):
                if question == f"Which photo is {where}?":
                    assert answer == photos.get(place, "none")
                if question == f"Which word is {where}?":
                    assert answer == words.get(place, "none")
            if question == "How many photos?":
                assert answer == vlm_canvases.NUMBERS[len(photos)]
            if question.startswith("Is there a "):
                assert (question[11:-1] in photos.values()) is (answer == "yes")


def test_patches_are_named_after_what_they_show(archives: list[Path]):
    photographs = vlm_canvases.Photographs(archives, "train")
    answers = ("nothing", *photographs.classes, *vlm_canvases.WORDS)
    for n in range(20):
        made = vlm_canvases.canvas(photographs, 0, n)
        labels = vlm_small.patch_labels(made, answers).unflatten(1, (7, 7))
        seen = {answers[k] for k in labels[1:].unique().tolist() if k > 0}
        assert seen == {item.name for item in made.items}
        for item in made.items:
            middle = [(item.box[i] + item.box[i + 2]) / 2 for i in (0, 1)]
            tile = 1 + int(middle[0] // 112) + 2 * int(middle[1] // 112)
            cell = labels[tile, int(middle[1] % 112 // 16), int(middle[0] % 112 // 16)]
            assert answers[cell] == item.name or cell == -100


def test_losses_are_on_answers_alone(archives: list[Path]):
    """A tokenizer of whole words shows what is learnt: each answer once, and nothing of the questions."""

    class Words:
        def __init__(self) -> None:
            self.known: dict[str, int] = {"<image>": 0}

        def convert_tokens_to_ids(self, token: str) -> int:
            return self.known[token]

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [self.known.setdefault(w, len(self.known)) for w in text.split()]}

    class Processor:
        tokenizer = Words()

    made = vlm_canvases.canvas(vlm_canvases.Photographs(archives, "train"), 0, 3)
    ids, labels = vlm_small.conversation(Processor(), made, 11)
    names = {n: word for word, n in Processor.tokenizer.known.items()}
    assert ids.count(0) == 11 and len(ids) == len(labels)
    learnt = " ".join(names[n] for n in labels if n >= 0)
    assert learnt == " ".join(answer for _, answer in made.questions)
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))
    assert torch.tensor(ids).min() >= 0
