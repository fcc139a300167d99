"""LLaVA-NeXT and LLaVA-OneVision: a whole view and tiles, packed into a mosaic whose rows end with a newline."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from foveate.budgets.registered import Sight
from foveate.budgets.sizes import anyres
from foveate.budgets.tiling import Tiling, single
from foveate.errors import InputError
from foveate.vlm._base import FAMILIES, Inputs, Look
from foveate.vlm.llava import Tiled, one


class Mosaic(Tiled):
    """Tiles of a canvas, side by side without its padding."""

    max_tiles: int | None = None

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        return {"pixel_values": inputs["pixel_values"], "image_sizes": inputs["image_sizes"]}

    def tiling(self, image_size: tuple[int, int]) -> Tiling:
        return anyres(
            image_size,
            self.config.image_grid_pinpoints,
            tile=one(self.config.vision_config.image_size),
            grid=self.grid,
            max_tiles=self.max_tiles,
        )

    def sizes(self, inputs: Inputs) -> list[tuple[int, int]]:
        sizes = inputs.get("image_sizes")
        if sizes is None:
            raise InputError("image_sizes: the height and width of every picture are needed beside pixel_values")
        return [(int(height), int(width)) for height, width in sizes]

    def tilings(self, inputs: Inputs) -> list[Tiling]:
        return [self.tiling(size) for size in self.sizes(inputs)]

    def looks(self, inputs: Inputs, tilings: Sequence[Tiling], needs: frozenset[str]) -> list[Look]:
        given, early, late, keys = self.encode(inputs, tilings, needs)
        looks, first = [], 0
        for n, tiling in enumerate(tilings):
            tiles = slice(first, first + tiling.tiles + 1)
            first = tiles.stop
            sources, weights = self.sources(tiling, given.device)
            own = given[tiles].flatten(0, 1)
            looks.append(
                Look(
                    Sight(
                        tiling,
                        early=None if early is None else early[n],
                        late=None if late is None else _mix(late[tiles].flatten(), sources, weights),
                        keys=None if keys is None else _mix(keys[tiles].flatten(0, 1), sources, weights),
                        features=_mix(own, sources, weights) if "features" in needs else None,
                        padded=late[tiles] if late is not None and "padded" in needs else None,
                    ),
                    own,
                    sources,
                    weights,
                )
            )
        return looks

    def sources(self, tiling: Tiling, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The places [n S] among the patches of all tiles (whole view first) that each cell comes from."""
        side = self.grid
        top, bottom, left, right = tiling.box
        down, across = range(top, bottom), range(left, right)
        rows, row_weights = _taps(len(tiling.down), down)
        columns, column_weights = _taps(len(tiling.across), across)
        # [H W 2 2] places on the padded mosaic -> tile, row and column within it
        r, c = rows[:, None, :, None], columns[None, :, None, :]
        tile = 1 + r // side * len(tiling.columns) + c // side
        place = (tile * side + r % side) * side + c % side
        weight = row_weights[:, None, :, None] * column_weights[None, :, None, :]
        whole = torch.arange(side * side)
        if len(tiling.down) == len(down) and len(tiling.across) == len(across):
            return torch.cat([whole, place[:, :, 0, 0].flatten()])[:, None].to(device), None
        own = torch.zeros(side * side, 4)
        own[:, 0] = 1
        places = torch.cat([whole[:, None].expand(-1, 4), place.flatten(0, 1).flatten(1)])
        return places.to(device), torch.cat([own, weight.flatten(0, 1).flatten(1)]).to(device)


@final
@FAMILIES.register("llava_next")
class LlavaNext(Mosaic):
    types = ("llava_next",)


@final
@FAMILIES.register("llava_onevision")
class LlavaOneVision(Mosaic):
    """A mosaic of more tokens than some tiles have is made smaller; beside others, a picture goes without tiles."""

    types = ("llava_onevision",)

    @property
    def max_tiles(self) -> int:
        return int(str(self.config.vision_aspect_ratio).removeprefix("anyres_max_"))

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        return {**super().arguments(inputs), "batch_num_images": inputs.get("batch_num_images")}

    def tilings(self, inputs: Inputs) -> list[Tiling]:
        alone = inputs.get("batch_num_images")
        sizes = self.sizes(inputs)
        tiled = [True] * len(sizes) if alone is None else [int(n) == 1 for n in alone for _ in range(int(n))]
        return [
            self.tiling(size) if alone else single(self.grid, self.grid, newline=True)
            for size, alone in zip(sizes, tiled, strict=True)
        ]


def _taps(count: int, rows: range) -> tuple[Tensor, Tensor]:
    """For each of `count` rows the two it lies between and their weights, as bilinear interpolation has them."""
    if count == len(rows):
        index = torch.tensor(rows, dtype=torch.long)[:, None]
        return index.expand(-1, 2), torch.tensor([1.0, 0.0]).expand(count, 2)
    at = ((torch.arange(count, dtype=torch.float32) + 0.5) * (len(rows) / count) - 0.5).clamp(min=0)
    low = at.floor().long()
    high = (low + 1).clamp(max=len(rows) - 1)
    share = at - low
    return torch.stack([low, high], 1) + rows.start, torch.stack([1 - share, share], 1)


def _mix(values: Tensor, sources: Tensor, weights: Tensor | None) -> Tensor:
    """What a cell has of its sources: values [N ...] -> [n ...]."""
    if weights is None:
        return values[sources[:, 0]]
    weights = weights.to(values).reshape(*weights.shape, *[1] * (values.ndim - 1))
    return (values[sources] * weights).sum(1)
