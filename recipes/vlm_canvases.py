"""Questions about small photographs and short printed words on plain canvases: what tells token budgets apart.

A canvas of 224 pixels is one whole view of 49 tokens and four tiles of 49. In each quadrant stands at most one
photograph (16 to 32 pixels: one to four patches of a tile, a quarter of that in the whole view) and at most one word.
So most of a canvas says nothing, and what says something is small: a budget that keeps the wrong tenth loses the
answer.

Canvases follow from (split, seed, index) alone. Photographs of the test split are never seen in training.
"""

import csv
import random
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 224
SPLITS = {"train": ("train", "train"), "val": ("val", "test")}  # folders of imagenette10 and clothing10
# Plain English names, a word each, so that an answer is short.
NAMES = {
    "tench": "fish", "english_springer": "dog", "cassette_player": "radio", "chain_saw": "saw", "church": "church",
    "french_horn": "horn", "garbage_truck": "truck", "gas_pump": "pump", "golf_ball": "ball", "parachute": "parachute",
    "longsleeve": "sweater", "outwear": "coat", "t-shirt": "tee",
}  # fmt: skip
WORDS = (
    "box", "cup", "fox", "jam", "key", "log", "map", "net", "owl", "pie", "rug", "tin", "van", "web", "yak", "zip",
    "ant", "bee", "cow", "den", "elm", "fig", "gum", "hen",
)  # fmt: skip
PLACES = ("top left", "top right", "bottom left", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Item:
    """Something on a canvas: left, top, right, bottom in pixels, what it is, and the quadrant it stands in."""

    box: tuple[int, int, int, int]
    name: str
    place: int
    photo: bool


@dataclass(frozen=True)
class Canvas:
    image: Image.Image
    items: tuple[Item, ...]
    questions: tuple[tuple[str, str], ...]  # (question, answer)


class Photographs:
    """Photographs of two archives by class, decoded when they are asked for."""

    def __init__(self, archives: Sequence[Path], split: str) -> None:
        self.found: dict[str, list[bytes]] = {}
        for path, folder in zip(archives, SPLITS[split], strict=True):
            with zipfile.ZipFile(path) as archive:
                listed = "classes.csv" in archive.namelist()
                called = _called(archive.read("classes.csv").decode()) if listed else {}
                for name in sorted(archive.namelist()):
                    parts = name.split("/")
                    if len(parts) == 3 and parts[0] == folder and parts[2]:
                        label = called.get(parts[1], parts[1]).lower().replace(" ", "_")
                        self.found.setdefault(NAMES.get(label, label), []).append(archive.read(name))
        if not self.found:
            raise SystemExit(f"no photographs of {split} in {', '.join(map(str, archives))}")
        self.classes = tuple(sorted(self.found))
        if odd := [name for name in self.classes if not name.isalpha()]:
            raise SystemExit(f"classes {', '.join(odd)} are no words that a model could answer with")

    def one(self, name: str, lot: random.Random) -> Image.Image:
        return Image.open(BytesIO(lot.choice(self.found[name]))).convert("RGB")


def _called(table: str) -> dict[str, str]:
    """Folders that are WordNet ids, and what they hold: of imagenette's classes.csv."""
    return {row["wnid"]: row["name"] for row in csv.DictReader(table.splitlines())}


def canvas(photographs: Photographs, seed: int, index: int) -> Canvas:
    """The canvas of that number, with all questions about it in a random order."""
    lot = random.Random(f"{seed} {index}")
    shade = lot.choice([(255, 255, 255), (245, 240, 225), (225, 235, 245), (235, 235, 235)])
    image = Image.new("RGB", (SIDE, SIDE), shade)
    pen, half, items = ImageDraw.Draw(image), SIDE // 2, list[Item]()
    names = lot.sample(photographs.classes, 4)
    words = lot.sample(WORDS, 4)
    photos = lot.sample(range(4), lot.randint(1, 3))
    printed = lot.sample(range(4), lot.randint(1, 3))
    for place in range(4):
        left, top = place % 2 * half, place // 2 * half
        taken: list[tuple[int, int, int, int]] = []
        if place in photos:
            side = lot.choice([16, 24, 32])
            box = _free(lot, left, top, side, side, taken)
            photo = photographs.one(names[place], lot)
            short = min(photo.size)
            x, y = (photo.width - short) // 2, (photo.height - short) // 2
            small = photo.crop((x, y, x + short, y + short)).resize((side, side), Image.Resampling.LANCZOS)
            image.paste(small, box[:2])
            items.append(Item(box, names[place], place, True))
            taken.append(box)
        if place in printed:
            font = ImageFont.load_default(size=lot.choice([12, 14, 16]))
            a, b, c, d = pen.textbbox((0, 0), words[place], font=font)
            wide, high = int(c - a) + 1, int(d - b) + 1
            box = _free(lot, left, top, wide, high, taken)
            ink = lot.choice([(0, 0, 0), (120, 0, 0), (0, 60, 120)])
            pen.text((box[0] - a, box[1] - b), words[place], fill=ink, font=font)
            items.append(Item(box, words[place], place, False))
    return Canvas(image, tuple(items), tuple(_questions(items, photographs.classes, lot)))


def _free(
    lot: random.Random, left: int, top: int, wide: int, high: int, taken: Sequence[tuple[int, int, int, int]]
) -> tuple[int, int, int, int]:
    """A box within a quadrant that touches none of those taken."""
    half, margin = SIDE // 2, 4
    box = (0, 0, 0, 0)
    for _ in range(100):
        x = left + lot.randint(margin, half - wide - margin)
        y = top + lot.randint(margin, half - high - margin)
        box = (x, y, x + wide, y + high)
        if all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in taken):
            return box
    return box


def _questions(items: Sequence[Item], classes: Sequence[str], lot: random.Random) -> list[tuple[str, str]]:
    asked = []
    for kind, known in (("photo", classes), ("word", WORDS)):
        found = [i for i in items if i.photo == (kind == "photo")]
        there = [i.name for i in found]
        others = [name for name in known if name not in there]
        for place, where in enumerate(PLACES):
            here = [i.name for i in found if i.place == place]
            if here or lot.random() < 0.3:
                asked.append((f"Which {kind} is {where}?", here[0] if here else "none"))
        for item in found:
            asked.append((f"Where is the {kind} {item.name}?", PLACES[item.place]))
            choice = [item.name, *lot.sample(others, 3)]
            lot.shuffle(choice)
            asked.append((f"Which {kind} is there: {', '.join(choice[:3])} or {choice[3]}?", item.name))
        asked.append((f"How many {kind}s?", NUMBERS[len(found)]))
        asked += [
            (f"Is there the {kind} {lot.choice(names)}?", said) for names, said in ((there, "yes"), (others, "no"))
        ]
    lot.shuffle(asked)
    return asked


def kind(question: str) -> str:
    """What is asked, for a table by kinds."""
    first, second, *rest = question.split()
    if first == "Which":
        return f"{second}, of four" if rest[1] == "there:" else f"{second}, by place"
    return {"Where": "place", "How": "number", "Is": "yes or no"}[first]
