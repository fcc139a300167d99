"""Photographs to learn from."""

import pytest
from support.lessons import COLOURS, photograph


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """Photographs of three colours: train/COLOUR/*.png, val/COLOUR/*.png."""
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 16), ("val", 4)):
        for c, colour in enumerate(COLOURS):
            (root / split / colour).mkdir(parents=True)
            for i in range(count):
                photograph(colour, 100 * c + i + 50 * (split == "val")).save(root / split / colour / f"{i:02}.png")
    return root
