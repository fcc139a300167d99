"""A ViT as the matrix products of `foveate.hardware.accelerator`: which layers it has, and of what operations."""

from typing import Any

from torch import nn

from foveate.adapters import adapt
from foveate.adapters._base import Reduced
from foveate.attention.hashed_linear import BITS, HashedLinear
from foveate.hardware.accelerator import Layer, Operation
from foveate.linears import Routed, ShiftLinear
from foveate.linears.mixture import MULTIPLY, Mixture
from foveate.models.reparameterized import CoreAttention


def layers_of(model: nn.Module, *, bits: int = 32) -> list[Layer]:
    """Every matrix product of one image through a plain or converted ViT, its tokens reduced or not.

    Of a mixture each expert has the rows that it gets in eval mode. What is no matrix product (norms, softmax, bits
    of a threshold, a router's value) is left out.

    Args:
        model: timm's or a converted one, or what `foveate.apply` made of it.
        bits: of its operands.

    >>> import timm
    >>> layers = layers_of(timm.create_model("vit_tiny_patch16_224", depth=1))
    >>> [(l.name, l.rows, l.inputs, l.outputs, l.times) for l in layers[:3]]
    [('patches', 196, 768, 192, 1), ('block 0 qkv', 197, 192, 576, 1), ('block 0 q k', 197, 64, 197, 3)]
    """
    reduced = model if isinstance(model, Reduced) else adapt(model)
    facts, host = reduced.facts, reduced.trunk
    height, width = facts.patch
    found = [Layer("patches", facts.patches, facts.image[0] * height * width, facts.width, bits=bits)]
    for i, block in enumerate(host.blocks):
        before, after = reduced.schedule.before[i], reduced.schedule.after[i]
        name = f"block {i}"
        found += _linear(f"{name} qkv", block.attn.qkv, before, bits)
        found += _between(name, block.attn, before, bits)
        found += _linear(f"{name} proj", block.attn.proj, before, bits)
        found += _mlp(name, block.mlp, after, bits)
    if facts.classes and isinstance(host.head, nn.Linear):
        found.append(Layer("head", 1, facts.last_width, facts.classes, bits=bits))
    return found


def _between(name: str, attn: Any, n: int, bits: int) -> list[Layer]:
    """What happens between the projections."""
    heads, d = attn.num_heads, attn.head_dim
    core = attn.core if isinstance(attn, CoreAttention) else None
    if not isinstance(core, HashedLinear):
        return [
            Layer(f"{name} q k", n, d, n, heads, bits=bits),
            Layer(f"{name} attention v", n, n, d, heads, bits=bits),
        ]
    codes = BITS if core.quantiser == "ksh" else d
    return [
        Layer(f"{name} k v", codes, n, d, heads, "add", bits),
        Layer(f"{name} q kv", n, codes, d, heads, "add", bits),
    ]


def _mlp(name: str, mlp: Any, rows: int, bits: int) -> list[Layer]:
    if not isinstance(mlp, Routed):
        return [found for part, layer in _layers(mlp) for found in _linear(f"{name} {part}", layer, rows, bits)]
    return [
        found
        for expert, count in zip(mlp.experts, _counts(mlp, rows), strict=True)
        if count
        for part, layer in _layers(expert)
        for found in _linear(f"{name} {part}", layer, count, bits)
    ]


def _linear(name: str, layer: Any, rows: int, bits: int) -> list[Layer]:
    if isinstance(layer, Mixture):
        routed: Any = layer.routed
        pairs = zip(routed.experts, _counts(routed, rows), strict=True)
        return [found for expert, count in pairs if count for found in _linear(name, expert, count, bits)]
    operation: Operation = "shift" if type(layer) is ShiftLinear else "multiply"
    made: Any = layer
    label = f"{name}, shifts" if operation == "shift" else name
    return [Layer(label, rows, made.in_features, made.out_features, operation=operation, bits=bits)]


def _counts(routed: Routed, rows: int) -> tuple[int, int]:
    first = routed.count(rows)
    return (first, rows - first) if MULTIPLY == 0 else (rows - first, first)


def _layers(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Linear layers and those in their place, by name."""
    found = []
    for name, part in module.named_children():
        if isinstance(part, nn.Linear | ShiftLinear | Mixture):
            found.append((name, part))
        else:
            found += [(f"{name}.{inner}", layer) for inner, layer in _layers(part)]
    return found
