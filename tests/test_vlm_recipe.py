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
    """Two archives laid out as the real ones, a colour a class: WordNet ids with a table of names, and names."""
    made = []
    for n, (names, folders) in enumerate(zip(CLASSES, (("train", "val"), ("train", "test")), strict=True)):
        path = tmp_path_factory.mktemp("data") / f"{n}.zip"
        ids = {name: f"n{k:08}" for k, name in enumerate(names)} if n == 0 else {}
        with zipfile.ZipFile(path, "w") as archive:
            if ids:
                archive.writestr("classes.csv", "wnid,name\n" + "".join(f"{i},{name}\n" for name, i in ids.items()))
            for folder in folders:
                for k, name in enumerate(names):
                    file = BytesIO()
                    Image.new("RGB", (40, 30), (80 * k, 100 + 50 * n, 200)).save(file, "PNG")
                    archive.writestr(f"{folder}/{ids.get(name, name)}/0.png", file.getvalue())
        made.append(path)
    return made


def test_a_canvas_follows_from_its_number(archives: list[Path]):
    photographs = vlm_canvases.Photographs(archives, "train")
    assert photographs.classes == ("ball", "church", "dress", "fish", "hat", "tee")
    one, again, other = (vlm_canvases.canvas(photographs, 0, n) for n in (5, 5, 6))
    assert one.image.tobytes() == again.image.tobytes() and one.questions == again.questions
    assert one.image.tobytes() != other.image.tobytes()


def test_classes_are_words(archives: list[Path], tmp_path: Path):
    """An id for a name is an answer that nobody would give, and that hardly differs from another."""
    with zipfile.ZipFile(archives[0]) as given, zipfile.ZipFile(tmp_path / "0.zip", "w") as bare:
        for name in given.namelist():
            if name != "classes.csv":
                bare.writestr(name, given.read(name))
    with pytest.raises(SystemExit, match="n00000000, n00000001, n00000002 are no words"):
        vlm_canvases.Photographs([tmp_path / "0.zip", archives[1]], "train")


def test_what_is_asked_is_true(archives: list[Path]):
    photographs = vlm_canvases.Photographs(archives, "val")
    half = vlm_canvases.SIDE // 2
    for n in range(40):
        made = vlm_canvases.canvas(photographs, 1, n)
        for item in made.items:
            left, top, right, bottom = item.box
            assert (left // half + 2 * (top // half), right // half + 2 * (bottom // half)) == (item.place,) * 2
        for kind, printed in (("photo", False), ("word", True)):
            there = {i.place: i.name for i in made.items if i.photo is not printed}
            for question, answer in made.questions:
                for place, where in enumerate(vlm_canvases.PLACES):
                    if question == f"Which {kind} is {where}?":
                        assert answer == there.get(place, "none")
                if question == f"How many {kind}s?":
                    assert answer == vlm_canvases.NUMBERS[len(there)]
                if (name := question.removeprefix(f"Is there the {kind} ")) != question:
                    assert (name[:-1] in there.values()) is (answer == "yes")
                if (name := question.removeprefix(f"Where is the {kind} ")) != question:
                    assert there[vlm_canvases.PLACES.index(answer)] == name[:-1]
                if (names := question.removeprefix(f"Which {kind} is there: ")) != question:
                    choice = names[:-1].replace(" or ", ", ").split(", ")
                    assert len(choice) == 4 and [name for name in choice if name in there.values()] == [answer]
        kinds = {vlm_canvases.kind(question) for question, _ in made.questions}
        assert {"number", "yes or no", "place", "photo, of four", "word, by place"} <= kinds


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


class Words:
    """A tokenizer of whole words, which shows what is learnt."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {"<image>": 0}

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.known[token]

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [self.known.setdefault(w, len(self.known)) for w in text.split()]}


class Processor:
    def __init__(self) -> None:
        self.tokenizer = Words()

    def image_processor(self, images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.zeros(len(images), 5, 3, 4, 4), "image_sizes": torch.full((len(images), 2), 224)}


def test_losses_are_on_answers_alone(archives: list[Path]):
    """Each answer once, and nothing of the questions."""
    processor = Processor()
    made = vlm_canvases.canvas(vlm_canvases.Photographs(archives, "train"), 0, 3)
    ids, labels, segments = vlm_small.encoded(processor, made, 11)
    names = {n: word for word, n in processor.tokenizer.known.items()}
    assert ids.count(0) == 11 and len(ids) == len(labels) == len(segments)
    learnt = " ".join(names[n] for n in labels if n >= 0)
    assert learnt == " ".join(answer for _, answer in made.questions)
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))


def test_a_question_sees_the_picture_and_itself(archives: list[Path]):
    """Answers of other questions about a canvas would give it away."""
    processor = Processor()
    photographs = vlm_canvases.Photographs(archives, "train")
    made = [vlm_canvases.canvas(photographs, 0, n) for n in (3, 4)]
    batch = vlm_small.batch_of(processor, made, pad=0)
    rows = [vlm_small.encoded(processor, c, 259) for c in made]
    for n, (ids, _, segments) in enumerate(rows):
        assert batch["input_ids"][n, : len(ids)].tolist() == ids
        prefix = segments.count(0)
        for q in (1, segments[-1]):
            mine = [i for i, s in enumerate(segments) if s == q]
            sees = batch["attention_mask"][n, 0, mine[-1]].nonzero().flatten().tolist()
            assert sees == [*range(prefix), *mine]
            assert batch["position_ids"][n, mine].tolist() == list(range(prefix, prefix + len(mine)))
