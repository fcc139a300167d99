"""The contract of a linear variant: what stands in the place of `nn.Linear`, or of the layers of an MLP.

Abstract classes are never instantiated, concrete ones never subclassed. Every variant starts from a trained layer and
has a slow `reference` in float64, written as its formula is printed.

Shape letters: B batch, N tokens, i inputs, o outputs.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn

from foveate.errors import InputError
from foveate.registry import Registry


class LinearVariant(nn.Module, ABC):
    """x [B N i] -> [B N o]. Hyper-parameters are keyword-only; one file, and one word in `linears/__init__.py`."""

    @classmethod
    def of(cls, layer: nn.Linear, **options: Any) -> Self:
        """In the place of `layer`, whose weights it starts from.

        Raises:
            InputError: an option's value, or a weight that is no finite number.
        """
        return cls(layer, **options)

    @classmethod
    def around(cls, mlp: nn.Module, width: int, **options: Any) -> nn.Module:
        """In the place of an MLP whose tokens have `width` channels: a copy with every linear layer replaced."""
        return with_layers(mlp, lambda layer: cls.of(layer, **options))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """What happens to one image does not depend on its batch mates, once in eval mode."""

    @abstractmethod
    def reference(self, x: Tensor) -> Tensor:
        """The same by its formula, in float64, in eval mode."""

    @abstractmethod
    def for_inference(self) -> nn.Module:
        """What is deployed: the same answers from layers that every runtime knows."""


LINEARS: Registry[LinearVariant] = Registry("linear variant")


def with_layers(module: nn.Module, made: Any) -> nn.Module:
    """A copy of `module` whose linear layers, wherever they are in it, are what `made` makes of them.

    Raises:
        InputError: there is none.
    """
    found = copy.deepcopy(module)
    layers = [name for name, each in found.named_modules() if type(each) is nn.Linear]
    if not layers:
        raise InputError(f"a {type(module).__name__} without linear layers; allowed: one that has some")
    for name in layers:
        found.set_submodule(name, made(found.get_submodule(name)))
    return found


def for_inference(module: nn.Module) -> nn.Module:
    """A twin of `module` in which every variant is what is deployed of it; its tensors are shared where they stay.

    >>> from foveate.linears import ShiftLinear
    >>> [type(m).__name__ for m in for_inference(nn.Sequential(ShiftLinear(nn.Linear(4, 4)), nn.ReLU()))]
    ['Linear', 'ReLU']
    """
    if hasattr(module, "for_inference"):
        return module.for_inference()  # type: ignore[operator,no-any-return]
    variants = [name for name, each in module.named_modules() if hasattr(each, "for_inference")]
    if not variants:
        return module
    shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
    found = copy.deepcopy(module, shared)
    for name in variants:
        try:
            inner = found.get_submodule(name)
        except AttributeError:  # inside of one that was replaced
            continue
        if hasattr(inner, "for_inference"):
            found.set_submodule(name, inner.for_inference())  # type: ignore[operator]
    return found
