"""Folders that trials start from."""

from pathlib import Path

import pytest
from support.lessons import COLOURS, photograph

from campaign.asked import FIT, RECIPE
from campaign.warm import Place, Warm

TESTS = Path(__file__).parent.parent
# The longest rows, longest first. Two workers get a half of the list each; they begin with these, and end with short
# ones, which either can take from the other.
LONGEST = (
    "test_signals[fit]", "test_kills_of_fit", "test_kills_of_train", "test_kills_of_export", "test_full_disk",
    "test_kills_of_profile", "test_mutated_folders",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if all(TESTS / "campaign" in item.path.parents for item in items):
        rank = lambda item: next((n for n, name in enumerate(LONGEST) if item.name.startswith(name)), len(LONGEST))
        items.sort(key=rank)
        items[:] = items[::2] + items[1::2]


@pytest.fixture(scope="session")
def warm():
    with Warm() as parent:
        yield parent


@pytest.fixture(scope="session")
def fitted(warm, tmp_path_factory):
    """A folder that a fit wrote."""
    place = Place(tmp_path_factory.mktemp("fitted"))
    child = warm.run([*FIT, "--out", "out"], place)
    assert child.code in (0, 3), child.said
    return place.root / "out"


@pytest.fixture(scope="session")
def lesson(warm, tmp_path_factory):
    """Photographs to learn from, and two recipes: in one process, and with workers."""
    root = tmp_path_factory.mktemp("lesson")
    for split, count in (("train", 16), ("val", 4)):
        for c, colour in enumerate(COLOURS):
            (root / "data" / split / colour).mkdir(parents=True)
            for i in range(count):
                seed = 100 * c + i + 50 * (split == "val")
                photograph(colour, seed).save(root / "data" / split / colour / f"{i:02}.png")
    for name, workers in (("recipe.py", 0), ("workers.py", 2)):
        (root / name).write_text(RECIPE.format(tests=str(TESTS), data=str(root / "data"), workers=workers))
    return root


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)
