"""Which matrix products a ViT is made of, and what a modelled accelerator takes for them."""

import json

import pytest
import timm
import torch

from foveate.adapters import adapt
from foveate.adapters.macs import macs_of
from foveate.commands.energy import energies, saved
from foveate.hardware.accelerator import cost
from foveate.models.reparameterized import reparameterize
from foveate.planning.shorthand import steps
from foveate.profiling.arithmetic import layers_of

SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 5}


def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SMALL).eval()


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"attention": "sigmoid"},
        {"mlp": "shift", "projections": "shift"},
        {"mlp": "mixture:ratio=3", "projections": "mixture"},
    ],
    ids=str,
)
@pytest.mark.parametrize("reduced", [False, True])
def test_its_products_are_the_models(words: dict[str, str], reduced: bool):
    model = reparameterize(vit(), **words) if words else vit()
    plan = steps(model, "random", r=3) if reduced else ()
    made = adapt(model, plan)
    routers = 48 * sum(n.endswith("router") for n, _ in model.named_modules())
    total = sum(layer.operations for layer in layers_of(made))
    assert total == made.facts.macs(made.schedule)
    assert total <= macs_of(made).backbone <= total + routers * made.facts.tokens


def test_hashed_attention_is_additions():
    layers = layers_of(reparameterize(vit(), attention="hashed_linear"))
    found = [
        (each.name, each.rows, each.inputs, each.outputs, each.times) for each in layers if each.operation == "add"
    ]
    assert found[:2] == [("block 0 k v", 16, 17, 16, 3), ("block 0 q kv", 17, 16, 16, 3)] and len(found) == 4


def test_experts_have_the_rows_that_they_get():
    layers = layers_of(reparameterize(vit(), mlp="mixture:ratio=3"))
    rows = [(each.operation, each.rows) for each in layers if each.name.startswith("block 0 fc1")]
    assert rows == [("multiply", 4), ("shift", 13)]


def test_energy_by_part_adds_up():
    rows = energies(vit(), attention="hashed_linear", mlp="shift", projections="mixture")
    for kind in ("as it is", "converted"):
        for movement in ("published", "complete"):
            mine = {r["part"]: r["energy_mj"] for r in rows if (r["model"], r["movement"]) == (kind, movement)}
            assert mine.pop("all") == pytest.approx(sum(mine.values()))
    whole = next(r for r in rows if r["part"] == "all")
    wanted = sum(cost(layer, "published").energy_uj for layer in layers_of(vit())) / 1e3
    assert whole["energy_mj"] == pytest.approx(wanted)
    assert whole["energy_mj"] == pytest.approx(whole["operations_mj"] + whole["dram_mj"] + whole["on_chip_mj"])
    published, complete = (saved(rows, movement) for movement in ("published", "complete"))
    assert published is not None and complete is not None and published > complete > 0


def test_the_command(capsys):
    from foveate.cli import app

    words = ["vit_tiny_patch16_224", "--attention", "hashed_linear", "--mlp", "shift", "--json"]
    small = [word for k in ("img_size=64", "depth=1") for word in ("--model-option", k)]
    app(["simulate", "energy", *words, *small], standalone_mode=False)
    told = capsys.readouterr()
    assert json.loads(told.out)["saved"]["complete"] > 0 and "42.9 %" in told.err
