"""Energy of a model on a modelled accelerator, part by part, as it is and converted."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from foveate.hardware.accelerator import Cost, Layer, Movement, cost
from foveate.models.reparameterized import ReparameterizedViT, reparameterize
from foveate.profiling.arithmetic import layers_of

MOVEMENTS: tuple[Movement, ...] = ("published", "complete")
PARTS = {"patches": "patches", "qkv": "projections", "proj": "projections", "head": "head"}
BETWEEN = ("q k", "attention v", "k v", "q kv")


def energies(model: nn.Module, *, bits: int = 32, **words: str) -> list[dict[str, Any]]:
    """A row a part and way of charging what is moved, of the model and, with `words`, of its converted copy.

    Args:
        model: timm's or a converted one.
        bits: of operands.
        words: as `foveate.models.reparameterized.reparameterize` takes them.

    Raises:
        InputError: a model that cannot be converted, an unknown variant.
    """
    kinds = {"as it is": model}
    if words and not isinstance(model, ReparameterizedViT):
        kinds["converted"] = reparameterize(model, **words)
    found = []
    for kind, each in kinds.items():
        layers = layers_of(each.eval(), bits=bits)
        for movement in MOVEMENTS:
            parts: dict[str, list[Cost]] = {}
            for layer in layers:
                parts.setdefault(part_of(layer), []).append(cost(layer, movement))
            rows = [_row(kind, movement, part, costs) for part, costs in parts.items()]
            found += [*rows, _row(kind, movement, "all", [c for costs in parts.values() for c in costs])]
    return found


def part_of(layer: Layer) -> str:
    """Of the parts of a ViT.

    >>> part_of(Layer("block 3 fc1, shifts", 1, 1, 1))
    'MLPs, shifts'
    """
    name, comma, how = layer.name.partition(", ")
    last = name.removeprefix("block ").partition(" ")[2] or name
    part = "attention" if last in BETWEEN else PARTS.get(last, "MLPs")
    return f"{part}{comma}{how}"


def saved(rows: Sequence[dict[str, Any]], movement: Movement) -> float | None:
    """Share of the energy that conversion saves; None without a converted copy."""
    found = {r["model"]: r["energy_mj"] for r in rows if r["movement"] == movement and r["part"] == "all"}
    return 1 - found["converted"] / found["as it is"] if "converted" in found else None


def _row(kind: str, movement: str, part: str, costs: Sequence[Cost]) -> dict[str, Any]:
    sums = {name: sum(asdict(c)[name] for c in costs) for name in Cost.__dataclass_fields__}
    energy = sum(c.energy_uj for c in costs)
    return {
        "model": kind, "movement": movement, "part": part, "energy_mj": energy / 1e3,
        "operations_mj": sums["operations_uj"] / 1e3, "dram_mj": sums["dram_uj"] / 1e3,
        "on_chip_mj": (sums["buffer_uj"] + sums["network_uj"] + sums["registers_uj"]) / 1e3, "ms": sums["ms"],
    }  # fmt: skip
