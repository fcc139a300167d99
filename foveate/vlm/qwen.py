"""Qwen2.5-VL and Qwen3-VL: one grid in the picture's own shape, no class token, positions of three axes.

Without a class token a cell's score is the attention it receives from a sample of the patches, in a block that attends
to the whole picture, summed over the four patches of a token. Positions stay those of the full picture.
"""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from foveate.budgets.registered import Kept, Sight
from foveate.budgets.sizes import dynamic
from foveate.budgets.tiling import Tiling, single
from foveate.errors import InputError
from foveate.vlm._base import FAMILIES, Family, Inputs, Look
from foveate.vlm.scoring import Heard, input_of, sampled


class Qwen(Family):
    """Pictures of a batch go through `visual` as one sequence."""

    @property
    def merge(self) -> int:
        return self.config.vision_config.spatial_merge_size

    def tiling(self, image_size: tuple[int, int]) -> Tiling:
        return dynamic(image_size, patch=self.config.vision_config.patch_size, merge=self.merge)

    def tilings(self, inputs: Inputs) -> list[Tiling]:
        grids = inputs.get("image_grid_thw")
        if grids is None:
            raise InputError("image_grid_thw: the patches of every picture are needed beside pixel_values")
        return [single(int(t) * int(h) // self.merge, int(w) // self.merge) for t, h, w in grids]

    def looks(self, inputs: Inputs, tilings: Sequence[Tiling], needs: frozenset[str]) -> list[Look]:
        unit, patches = self.merge**2, int(inputs["image_grid_thw"].prod(1).sum())
        if len(inputs["pixel_values"]) != patches:
            raise InputError(f"pixel_values holds {len(inputs['pixel_values'])} patches, image_grid_thw says {patches}")
        lengths = [tiling.cells * unit for tiling in tilings]
        with self.heard(self.whole_block(), lengths, bool(needs & {"late", "keys", "padded"})) as heard:
            last, deep = self.encode(inputs)
        given, *deep = (x.unflatten(0, (-1, unit)) for x in (last, *deep))  # [tokens, patches of a token, D]
        back = self.raster(inputs["image_grid_thw"]).to(given.device)
        looks, first = [], 0
        for n, tiling in enumerate(tilings):
            mine = back[first : first + tiling.cells]
            own, local = given[mine], mine - first
            late = keys = None
            if heard:
                late = heard[n].received()[0].unflatten(0, (-1, unit)).sum(1)[local]
                keys = heard[n].keys()[0].unflatten(0, (-1, unit)).mean(1)[local]
            looks.append(
                Look(
                    Sight(
                        tiling,
                        late=late,
                        keys=keys if "keys" in needs else None,
                        features=own.flatten(1) if "features" in needs else None,
                        padded=late[None] if late is not None and "padded" in needs else None,
                    ),
                    own,
                    torch.arange(len(own), device=own.device)[:, None],
                    deep=tuple(x[mine] for x in deep),
                )
            )
            first += tiling.cells
        return looks

    def encode(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        """What the merger takes, and what others before it take: [patches of all pictures, D]."""
        pixels, grids = inputs["pixel_values"], inputs["image_grid_thw"]
        return input_of(self.core.visual.merger, lambda: self.core.get_image_features(pixels, grids)), []

    def project(self, given: Tensor) -> Tensor:
        return self.core.visual.merger(given.flatten(0, 1))

    def whole_block(self) -> int:
        """The last block that attends to the whole picture."""
        return len(self.core.visual.blocks) - 1

    def raster(self, grids: Tensor) -> Tensor:
        """Where in the tower's own order each token of the raster is."""
        return torch.arange(int((grids.prod(-1) // self.merge**2).sum()))

    def heard(self, block: int, lengths: Sequence[int], wanted: bool) -> "_Listening":
        return _Listening(self.core.visual.blocks[block].attn, lengths, wanted)

    def positions(self, inputs: Inputs) -> tuple[Tensor | None, Callable[[Tensor], None] | None]:
        types = inputs.get("mm_token_type_ids")
        if types is None:
            raise InputError("mm_token_type_ids: the processor's own output is needed, positions depend on it")
        given = {
            key: inputs[key]
            for key in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
            if inputs.get(key) is not None
        }
        full, delta = self.core.get_rope_index(inputs["input_ids"], mm_token_type_ids=types, **given)

        def removed(count: Tensor) -> None:
            # what follows goes on from the full prompt's last position, in a longer chat too
            self.core.rope_deltas = delta + count[:, None].to(delta)

        return full, removed


class _Listening:
    """Hears a fused projection of queries, keys and values, with the rotary embedding that the block applies."""

    def __init__(self, attention: nn.Module, lengths: Sequence[int], wanted: bool) -> None:
        self.attention, self.lengths, self.wanted = attention, lengths, wanted
        self.hooks: list[Any] = []
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.heard: list[Heard] = []

    def __enter__(self) -> list[Heard]:
        if self.wanted:
            self.hooks = [
                self.attention.register_forward_pre_hook(self._positions, with_kwargs=True),
                self.attention.qkv.register_forward_hook(self._projected),  # type: ignore[union-attr]
            ]
        return self.heard

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _positions(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.rotary = kwargs["position_embeddings"]

    def _projected(self, module: nn.Module, args: Any, out: Tensor) -> None:
        assert self.rotary is not None
        heads = int(self.attention.num_heads)  # type: ignore[arg-type]
        q, k, _ = out.detach().unflatten(-1, (3, heads, -1)).unbind(1)
        cos, sin = (x.float()[:, None] for x in self.rotary)
        q, k = (x.float() * cos + _half_turned(x.float()) * sin for x in (q, k))
        for own_q, own_k in zip(q.split(list(self.lengths)), k.split(list(self.lengths)), strict=True):
            asked = own_q[sampled(len(own_q)).to(own_q.device)]
            self.heard.append(Heard(heads, 0, q=asked[None], k=own_k[None]))


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


@final
@FAMILIES.register("qwen2_5_vl")
class Qwen25(Qwen):
    """Most blocks attend within windows, and the tower runs in their order."""

    types = ("qwen2_5_vl",)

    def whole_block(self) -> int:
        return max(self.core.visual.fullatt_block_indexes)

    def raster(self, grids: Tensor) -> Tensor:
        from transformers.vision_utils import get_vision_window_index

        visual = self.core.visual
        index, _ = get_vision_window_index(
            grids, spatial_merge_size=self.merge, window_size=visual.window_size, patch_size=visual.patch_size
        )
        return torch.argsort(index)


@final
@FAMILIES.register("qwen3_vl")
class Qwen3(Qwen):
    """Some blocks hand features over to the language model's first ones: they lose the same tokens."""

    types = ("qwen3_vl",)

    def encode(self, inputs: Inputs) -> tuple[Tensor, list[Tensor]]:
        given: dict[int, Tensor] = {}
        mergers = list(self.core.visual.deepstack_merger_list)

        def beside(index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
                given[index] = args[0]
                return (args[0][: self.merge**2],)  # it is projected when it is known what stays

            return hook

        hooks = [merger.register_forward_pre_hook(beside(n)) for n, merger in enumerate(mergers)]
        try:
            last, _ = super().encode(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return last, [given[n] for n in range(len(mergers))]

    def deep_features(self, look: Look, kept: Kept) -> list[Tensor]:
        mergers = self.core.visual.deepstack_merger_list
        return [merger(picked(given, kept).flatten(0, 1)) for merger, given in zip(mergers, look.deep, strict=True)]

    def output(self, kept: Sequence[Tensor], deep: Sequence[list[Tensor]]) -> Any:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        levels: Any = [list(level) for level in zip(*deep, strict=True)]
        tokens: Any = list(kept)
        return BaseModelOutputWithDeepstackFeatures(pooler_output=tokens, deepstack_features=levels)


def picked(given: Tensor, kept: Kept) -> Tensor:
    """Rows [n patches D] of the cells that stay, with what is merged into them."""
    return kept.pick(given.flatten(1)).unflatten(1, given.shape[1:])
