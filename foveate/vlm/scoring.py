"""What the cells of a picture are attended to, read off an encoder while it runs.

Two blocks hand over their queries and keys through hooks; the attention that is needed is computed again from them:
the class token's row alone, or that of some patches where there is no class token. Every block stays on the fused
attention it has. A row of 577 costs 0.6 million multiplications a block and tile, the whole matrix 341 million.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import InputError

QUERIES = 64  # patches asked where no class token is: of 729, the order of what they attend to is settled by them


@dataclass
class Heard:
    """Queries and keys of one block: q [T Q H D], k [T N H D], prefix tokens included."""

    heads: int
    prefix: int
    tiles: Tensor | None = None  # which tiles are wanted; None for all
    q: Tensor | None = None
    k: Tensor | None = None
    rotate: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def received(self) -> Tensor:
        """Attention that each patch receives, summed over the heads: [T patches] float32."""
        assert self.q is not None and self.k is not None
        q, k = self.q.float(), self.k.float()
        product = torch.einsum("tqhd,tnhd->thqn", q, k) * q.shape[-1] ** -0.5
        return product.softmax(-1).mean(2).sum(1)[:, self.prefix :]

    def keys(self) -> Tensor:
        """Keys of the patches, averaged over the heads: [T patches D] float32."""
        assert self.k is not None
        return self.k[:, self.prefix :].mean(2, dtype=torch.float32)


def blocks_of(tower: nn.Module) -> nn.ModuleList:
    """The blocks of an encoder: the longest list of modules that have queries and keys.

    Raises:
        InputError: an encoder that has none.
    """
    lists = [m for m in tower.modules() if isinstance(m, nn.ModuleList) and len(m) and _projections(m[0])]
    if not lists:
        raise InputError(
            f"{type(tower).__name__}: no blocks with query and key projections; a budget by attention needs them, "
            "random, uniform and divprune do not"
        )
    return max(lists, key=len)


def _projections(block: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The modules that put out a block's queries and keys: its norms of them where it has some."""
    named = {name.rpartition(".")[2]: module for name, module in block.named_modules()}
    for q, k in (("q_norm", "k_norm"), ("q_proj", "k_proj"), ("query", "key")):
        if q in named and k in named and not isinstance(named[q], nn.Identity):
            return named[q], named[k]
    return None


@contextmanager
def listening(
    tower: nn.Module, wanted: dict[int, Tensor | None], *, heads: int, prefix: int
) -> Iterator[dict[int, Heard]]:
    """Hear the blocks of `tower` while it runs within this block.

    Args:
        wanted: which tiles of which block; None for all of them.
        prefix: tokens before the patches, the first of them the class token.
    """
    blocks = blocks_of(tower)
    heard = {index: Heard(heads, prefix, tiles) for index, tiles in wanted.items()}
    hooks = []
    for index, into in heard.items():
        found = _projections(blocks[index])
        assert found is not None
        hooks += [found[0].register_forward_hook(_queries(into)), found[1].register_forward_hook(_keys(into))]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _queries(into: Heard) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        out = out.detach() if into.tiles is None else out.detach()[into.tiles]
        asked = out[:, :1] if into.prefix else out[:, sampled(out.shape[1]).to(out.device)]
        into.q = asked.unflatten(-1, (into.heads, -1))

    return hook


def _keys(into: Heard) -> Callable[[Any, Any, Tensor], None]:
    def hook(module: nn.Module, args: Any, out: Tensor) -> None:
        out = out.detach() if into.tiles is None else out.detach()[into.tiles]
        into.k = out.unflatten(-1, (into.heads, -1))

    return hook


def sampled(tokens: int) -> Tensor:
    """Evenly spaced patches to ask, at most `QUERIES`."""
    count = min(tokens, QUERIES)
    return ((torch.arange(count) + 0.5) * tokens / count).long()


class Captured(Exception):
    """Not an error: carries what a module was about to be given out of the model that was about to give it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def input_of(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Run a model up to `module` and return what it would have been given. What comes before is the host's own code."""

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        raise Captured(args[0])

    hook = module.register_forward_pre_hook(stop)
    try:
        run()
    except Captured as captured:
        return captured.value
    finally:
        hook.remove()
    raise InputError(f"{type(module).__name__} was not reached: this model does not project its pictures with it")


def last_block(layer: int | Sequence[int], blocks: int) -> int:
    """The block that hidden state `layer` comes out of; of several, the last one's."""
    layers = [layer] if isinstance(layer, int) else list(layer)
    return max((index if index >= 0 else blocks + 1 + index) - 1 for index in layers)
