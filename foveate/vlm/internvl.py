"""InternVL: tiles of a squeezed picture one after the other, a thumbnail last, four patches to a token."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from foveate.budgets.registered import Sight
from foveate.budgets.sizes import squeezed, thumbnailed
from foveate.budgets.tiling import Tiling
from foveate.errors import InputError
from foveate.vlm._base import FAMILIES, Inputs, Look
from foveate.vlm.llava import Tiled, one


@final
@FAMILIES.register("internvl")
class InternVL(Tiled):
    """The host is told neither sizes nor counts of tiles: prompts say how many, `image_sizes` or the pixels which."""

    types = ("internvl",)

    @property
    def shrink(self) -> int:
        """Patches to a side that one token stands for."""
        return round(1 / self.config.downsample_ratio)

    @property
    def grid(self) -> int:
        return super().grid // self.shrink

    def known(self, inputs: Inputs) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name != "image_sizes"}

    def tiling(self, image_size: tuple[int, int]) -> Tiling:
        return squeezed(image_size, tile=one(self.config.vision_config.image_size), grid=self.grid)

    def tilings(self, inputs: Inputs) -> list[Tiling]:
        pixels, ids = inputs["pixel_values"], inputs.get("input_ids")
        if inputs.get("image_sizes") is not None:
            return [self.tiling((int(height), int(width))) for height, width in inputs["image_sizes"]]
        if ids is None:
            raise InputError("input_ids: InternVL's prompts say how many tiles a picture has")
        tilings, first = [], 0
        for run in runs(ids == self.image_token):
            if run % self.grid**2:
                raise InputError(f"{run} image tokens in a row are no whole number of tiles of {self.grid**2}")
            tiles = run // self.grid**2
            if first + tiles > len(pixels):
                raise InputError(f"prompts name {first + tiles} tiles or more, pixel_values holds {len(pixels)}")
            tilings.append(thumbnailed(*arrangement(pixels[first : first + tiles]), self.grid))
            first += tiles
        if first != len(pixels):
            raise InputError(f"pixel_values holds {len(pixels)} tiles, prompts have places for {first}")
        return tilings

    def looks(self, inputs: Inputs, tilings: Sequence[Tiling], needs: frozenset[str]) -> list[Look]:
        given, early, late, keys = self.encode(inputs, tilings, needs)
        early = None if early is None else grouped(early, self.shrink).sum(-1)
        late = None if late is None else grouped(late, self.shrink).sum(-1)
        keys = None if keys is None else grouped(keys, self.shrink).mean(2)
        looks, first = [], 0
        for n, tiling in enumerate(tilings):
            tiles = slice(first, first + tiling.tiles + int(tiling.viewed))
            first = tiles.stop
            own = given[tiles].flatten(0, 1)
            looks.append(
                Look(
                    Sight(
                        tiling,
                        early=None if early is None else early[n],
                        late=None if late is None else late[tiles].flatten(),
                        keys=None if keys is None else keys[tiles].flatten(0, 1),
                        features=own if "features" in needs else None,
                        padded=None if late is None else late[tiles].roll(1, 0) if tiling.whole_last else late[tiles],
                    ),
                    own,
                    torch.arange(len(own), device=own.device)[:, None],
                )
            )
        return looks

    @contextmanager
    def bridged(self) -> Iterator[None]:
        """The host takes one tensor alone, and repeats whole entries for beams: it gets a list, joined at the door."""

        def join(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            image = (kwargs.get("mm_encoder_outputs") or {}).get("image")
            if image is not None and not isinstance(image.pooler_output, Tensor):
                image.pooler_output = torch.cat(list(image.pooler_output))[None]
            return args, kwargs

        hook = self.core.register_forward_pre_hook(join, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def runs(mask: Tensor) -> list[int]:
    """Lengths of the unbroken runs of true places in a batch of rows.

    >>> runs(torch.tensor([[True, True, False, True]]))
    [2, 1]
    """
    found = []
    for row in mask:
        edges = (
            torch.diff(row.int(), prepend=row.new_zeros(1).int(), append=row.new_zeros(1).int()).nonzero().squeeze(1)
        )
        found += [int(end - start) for start, end in edges.reshape(-1, 2)]
    return found


def arrangement(tiles: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles whose mosaic looks most like the thumbnail after them: [T 3 H W]."""
    count = max(1, len(tiles) - 1)
    if count == 1:
        return 1, 1
    thumbnail = adaptive_avg_pool2d(tiles[-1:].float(), 48)
    shapes = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]

    def off(shape: tuple[int, int]) -> float:
        mosaic = tiles[:count].float().unflatten(0, shape).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2, 3)
        return float((adaptive_avg_pool2d(mosaic[None], 48) - thumbnail).square().mean())

    return min(shapes, key=off)


def grouped(patches: Tensor, shrink: int) -> Tensor:
    """The patches that each token stands for: [T patches (D)] -> [T tokens shrink^2 (D)]."""
    side = round(patches.shape[1] ** 0.5)
    blocks = patches.unflatten(1, (side // shrink, shrink, side // shrink, shrink))
    return blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)
