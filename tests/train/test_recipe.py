"""Recipes: a file and its changes, each wrong one named."""

import pytest
from support.lessons import recipe

from foveate.errors import InputError
from foveate.train import load_recipe, train
from foveate.train.recipe import changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epoch=3", "unknown key 'epoch' of a recipe; known: .*epochs"),
        ("epochs", "'epochs' is no change of a recipe; allowed: key=value"),
        ("epochs=0", "recipe: epochs is 0: Input should be greater than or equal to 1"),
        ("augment.mixup=-1", "augment.mixup is -1"),
        ("task=3", "task of this recipe is Python"),
    ],
)
def test_wrong_changes_are_named(colours, change, message):
    with pytest.raises(InputError, match=message):
        changed(recipe(colours), [change])


def test_a_recipe_file_and_its_changes(colours, tmp_path):
    file = tmp_path / "mine.py"
    values = f"model='vit_tiny_patch16_224', data={str(colours)!r}, epochs=9, batch=8, lr=1e-3"
    file.write_text(f"from foveate.train import Recipe\nrecipe = Recipe({values})\n")
    made = load_recipe(file, ["epochs=2", "augment.scale=(0.5, 1.0)", "ema=0.9", "model=deit_tiny_patch16_224"])
    assert (made.epochs, made.augment.scale, made.ema, made.model) == (2, (0.5, 1.0), 0.9, "deit_tiny_patch16_224")
    assert made.fingerprint() != load_recipe(file).fingerprint() == load_recipe(file, ["workers=0"]).fingerprint()
    (tmp_path / "empty.py").write_text("x = 1\n")
    for name, message in (("empty.py", "has no `recipe`"), ("none.py", "no such file")):
        with pytest.raises(InputError, match=message):
            load_recipe(tmp_path / name)


@pytest.mark.parametrize("batch, accumulate", [(9, 2), (6, 4)])
def test_a_batch_that_cannot_be_divided_is_told(colours, tmp_path, batch, accumulate):
    with pytest.raises(InputError, match=f"batch is {batch}; allowed with 1 processes and {accumulate} parts each"):
        train(recipe(colours, batch=batch, accumulate=accumulate), tmp_path / "run")
