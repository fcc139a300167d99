"""A file's tensors for a model that differs where it is plain what to do; each change said in a line."""

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from foveate.loading.checkpoint import Tensors, listed
from foveate.loading.weights import mismatches

CLASSIFIERS = ("head", "fc", "head_dist", "process_head")  # as timm and we name them


def adjusted(model: nn.Module, state: Mapping[str, Tensor], *, headless: bool = False) -> Tensors:
    """What of `state` the model takes, and lines for the user.

    `headless`: the caller asked for no classifier, and the file's is left out where nothing else is too many. Names of
    a model's original publication become timm's by timm's own rules. Positions of another grid are resampled where
    nothing else differs. All else is left as it is, for `filled` to refuse.
    """
    found, said = _as_timm_names(model, state)
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
    return Tensors(found, tuple(said))


def _as_timm_names(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """`state` as timm converts it for this model (DINOv2's, CLIP's, I-JEPA's own names ...), where that helps."""
    before = mismatches(model, state)
    convert = getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)
    if convert is None or not (before.missing or before.unexpected):
        return dict(state), []
    try:
        found = dict(convert(dict(state), model))
    except Exception:  # written for the files its authors know; of any other it may think anything
        return dict(state), []
    after = mismatches(model, found)
    if len(after.missing) + len(after.unexpected) >= len(before.missing) + len(before.unexpected):
        return dict(state), []
    said, values = list[str](), {id(v) for v in found.values()}
    gone = [key for key in before.unexpected if key not in found and id(state[key]) in values]
    if gone:
        said.append(f"names converted as timm does for a {type(model).__name__}: {listed(gone)}")
    if left := [key for key in before.unexpected if key not in found and key not in gone]:
        said.append(f"left out or converted, as timm does for a {type(model).__name__}: {listed(left)}")
    if changed := [key for key in found if key in state and state[key].shape != found[key].shape]:
        said.append(f"resampled, as timm does for a {type(model).__name__}: {listed(changed)}")
    return found, said


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
