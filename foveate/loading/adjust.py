"""A file's tensors for a model that differs where it is plain what to do; each change said in a line."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from foveate.loading.weights import mismatches

CLASSIFIERS = ("head", "fc", "head_dist", "process_head")  # as timm and we name them


def adjusted(
    model: nn.Module, state: Mapping[str, Tensor], *, headless: bool = False
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """What of `state` the model takes, and lines for the user.

    `headless`: the caller asked for no classifier, and the file's is left out where nothing else is too many. Positions
    of another grid are resampled where nothing else differs. All else is left as it is, for `filled` to refuse.
    """
    found, said = dict(state), list[str]()
    extra = mismatches(model, found).unexpected
    if headless and extra and all(key.partition(".")[0] in CLASSIFIERS for key in extra):
        found = {key: tensor for key, tensor in found.items() if key not in extra}
        said.append(f"left out, as the model has no classifier (num_classes=0): {', '.join(extra)}")
    wrong = mismatches(model, found)
    grids = dict(_grids(model, found, wrong.shapes))
    if not wrong.missing and not wrong.unexpected and grids.keys() == set(wrong.shapes):
        for key, grid in grids.items():
            found[key], line = grid.resampled(found[key])
            said.append(line)
    return found, tuple(said)


class _Grid:
    """A table of positions of another grid than the model's: a square of `side` patches behind `prefix` rows."""

    def __init__(self, key: str, part: Any, prefix: int, side: int) -> None:
        self.key, self.prefix, self.side = key, prefix, side
        self.new, self.patch = tuple(part.patch_embed.grid_size), tuple(part.patch_embed.patch_size)

    def resampled(self, table: Tensor) -> tuple[Tensor, str]:
        """table [1 N C] -> [1 N' C], by timm's bicubic resampling with antialiasing, and a line about it."""
        from timm.layers.pos_embed import resample_abs_pos_embed

        old = [self.side, self.side]
        made = resample_abs_pos_embed(table.float(), list(self.new), old, num_prefix_tokens=self.prefix)
        pixels = [n * p for n, p in zip(self.new, self.patch, strict=True)]
        first = [n * p for n, p in zip(old, self.patch, strict=True)]
        return made, (
            f"{self.key} resampled from {self.side} x {self.side} patches to {self.new[0]} x {self.new[1]}: the model "
            f"takes {pixels[0]} x {pixels[1]} pixels, the file's took {first[0]} x {first[1]}"
        )


def _grids(model: nn.Module, state: Mapping[str, Tensor], keys: tuple[str, ...]) -> Iterator[tuple[str, _Grid]]:
    """Those of `keys` that are positions of a timm ViT and differ in the grid alone."""
    own = model.state_dict()
    for key in keys:
        where, _, name = key.rpartition(".")
        part: Any = model.get_submodule(where)
        if name != "pos_embed" or not hasattr(part, "patch_embed"):
            continue
        table, prefix = state[key], 0 if getattr(part, "no_embed_class", False) else part.num_prefix_tokens
        if table.ndim != 3 or table.shape[0] != 1 or table.shape[2] != own[key].shape[2]:
            continue
        side = math.isqrt(max(0, table.shape[1] - prefix))
        if side and side**2 + prefix == table.shape[1]:
            yield key, _Grid(key, part, prefix, side)
