"""The accelerator model: published energies, every tiling by hand, what is charged and what is not."""

from itertools import product

import pytest

from foveate.errors import InputError
from foveate.hardware.accelerator import Cost, Layer, Movement, cost, counted_mj, factors, operation_pj, total

# EcoFormer's README: products and additions in G, energy in mJ.
ECOFORMER = {
    "PVTv2-B0": (0.54, 0.56, 2.5), "PVTv2-B1": (2.03, 2.09, 9.4), "PVTv2-B2": (3.85, 3.97, 17.8),
    "PVTv2-B3": (6.54, 6.75, 30.25), "PVTv2-B4": (9.57, 9.82, 44.25), "Twins-SVT-S": (2.72, 2.81, 12.6),
}  # fmt: skip


@pytest.mark.parametrize("name", ECOFORMER)
def test_the_energies_that_ecoformer_published(name: str):
    products, additions, mj = ECOFORMER[name]
    assert counted_mj(products * 1e9, additions * 1e9) == pytest.approx(mj, abs=0.04)


def by_hand(layer: Layer, movement: Movement) -> tuple[float, float]:
    """Energy in uJ and ms of the best tiling, one tiling at a time, by the formulas as they are printed."""
    n, c, m = layer.rows, layer.inputs, layer.outputs
    ifmap, wgt, ofmap = n * c, c * m, n * m
    memory, elements = (2, 4) if layer.bits == 8 else (1, 1)
    i = w = o = layer.bits / 16
    cycle = 1 / 250e6
    if layer.operation == "shift" and movement == "published":
        i = w = o = 10 / 16
        cycle *= 10 / 32
    elif layer.operation == "shift":
        w = 5 / 16
    charged = not (layer.operation == "add" and movement == "published")
    found = []
    for (n0, n3), (m0, m1, m2, m3), (c0, c1, c2) in product(factors(n, 2), factors(m, 4), factors(c, 3)):
        if m0 > 16 or m1 * c1 >= 192 * elements or c0 >= 12 * memory or m0 * c0 >= 960 * memory:
            continue
        if n0 * c1 * c0 + n0 * m2 * m1 * m0 >= 65536 * memory:
            continue
        dram = i * m3 * ifmap + w * n3 * wgt + o * ofmap
        gb = i * m3 * m2 * ifmap + o * max(2 * (c2 - 1), 1) * ofmap
        noc = i * m3 * m2 * m1 * ifmap + w * n3 * wgt
        psum = o * max(c2 * (c1 - 1), 1) * ofmap
        rf = i * m3 * m2 * m1 * m0 * ifmap + o * max(2 * c2 * c1 * (c0 - 1), 1) * ofmap
        rf_wgt = w * n3 * n0 * wgt
        moved = 3.7 * (psum + rf + 2 * rf_wgt) + (200 * dram + 3.7 * (6 * gb + 2 * noc) if charged else 0)
        found.append((moved, n3 * n0 * m3 * m2 * m0 * c2 * c0 * cycle))
    least, most = min(e for e, _ in found), max(e for e, _ in found)
    soonest, latest = min(t for _, t in found), max(t for _, t in found)
    energy, seconds = min(found, key=lambda f: (f[0] - least) / most + (f[1] - soonest) / latest)
    operations = n * c * m * operation_pj(layer)
    return layer.times * (energy + operations) * 1e-6, layer.times * seconds * 1e3


@pytest.mark.parametrize("movement", ["published", "complete"])
@pytest.mark.parametrize("operation", ["multiply", "shift", "add"])
@pytest.mark.parametrize(("n", "c", "m", "bits"), [(4, 12, 8, 32), (7, 16, 24, 32), (6, 64, 48, 8), (1, 5, 3, 16)])
def test_every_tiling_by_hand(n: int, c: int, m: int, bits: int, operation: str, movement: str):
    layer = Layer("it", n, c, m, times=3, operation=operation, bits=bits)  # type: ignore[arg-type]
    found = cost(layer, movement)  # type: ignore[arg-type]
    energy, ms = by_hand(layer, movement)  # type: ignore[arg-type]
    assert found.energy_uj == pytest.approx(energy, rel=1e-9)
    assert found.ms == pytest.approx(ms, rel=1e-9)


def test_most_of_what_additions_save_as_published_is_memory_that_they_are_not_charged():
    shape = (197, 64, 197)
    dense = cost(Layer("qk", *shape, times=6))
    published = cost(Layer("qk", *shape, times=6, operation="add"), "published")
    complete = cost(Layer("qk", *shape, times=6, operation="add"), "complete")
    assert published.dram_uj == published.buffer_uj == 0 < complete.dram_uj
    assert published.energy_uj < complete.energy_uj < dense.energy_uj
    saved = dense.energy_uj - published.energy_uj
    assert (dense.operations_uj - published.operations_uj) / saved < 0.5


def test_layers_add_up():
    layers = [Layer("fc1", 197, 192, 768), Layer("fc2", 197, 768, 192, operation="shift")]
    both = total(layers)
    assert isinstance(both, Cost)
    assert both.energy_uj == pytest.approx(sum(cost(layer).energy_uj for layer in layers))
    assert both.ms == pytest.approx(sum(cost(layer).ms for layer in layers))


def test_what_is_not_allowed():
    with pytest.raises(InputError, match="layer fc: 0x3x4, 1 times"):
        Layer("fc", 0, 3, 4)
    with pytest.raises(InputError, match="layer fc: 4 bits; allowed: 32, 16, 8"):
        Layer("fc", 2, 3, 4, bits=4)
    with pytest.raises(InputError, match="movement 'none'"):
        cost(Layer("fc", 2, 3, 4), "none")  # type: ignore[arg-type]
