"""Multiply-accumulates of a real model, counted by torch on shapes alone."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveate.adapters import adapt
from foveate.adapters._base import Reduced
from foveate.plans import Step

T = TypeVar("T")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one image: matrix products and convolutions, as everyone counts them."""

    backbone: int  # the host's own work on the tokens that are left
    reduction: int  # similarities, class rows, merging matrices; sorting and gathering multiply nothing

    @property
    def total(self) -> int:
        return self.backbone + self.reduction


def macs_of(model: nn.Module, steps: Iterable[Step] = ()) -> Macs:
    """Count one image through `model` with `steps`, or through an adapted model, as it is deployed.

    Half of what torch's FlopCounterMode counts. The backbone equals `foveate.schedule.macs` exactly on a plain ViT;
    that formula leaves out gated MLPs, distillation heads, attention pooling and routers, which are counted here.
    """
    reduced = (model if isinstance(model, Reduced) else adapt(model, steps)).for_inference()
    first = next(reduced.host.parameters())
    backbone = reduction = 0
    # The plain kernel is made of matrix products, which the counter knows on every device.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        image = torch.empty(1, *reduced.facts.image, dtype=first.dtype, device=first.device)
        tokens, n = _count(lambda: reduced.embed(image))
        backbone += n
        for block in range(reduced.facts.depth):
            bias = reduced.bias(block, tokens)
            tokens, n = _count(partial(reduced.attend, block, tokens, bias))
            backbone += n
            tokens, n = _count(partial(reduced.reduce, block, tokens, bias))
            reduction += n
            tokens, n = _count(partial(reduced.mlp, block, tokens))
            backbone += n
        backbone += _count(partial(reduced.finish, tokens))[1]
    return Macs(backbone, reduction)


def _count(run: Callable[[], T]) -> tuple[T, int]:
    """What `run` returns, and its multiply-accumulates."""
    counter = FlopCounterMode(display=False)
    with counter:
        out = run()
    return out, counter.get_total_flops() // 2
