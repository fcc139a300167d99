"""LLaVA 1.5 and those built like it: one picture, one grid, a class token that says what is looked at."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from foveate.budgets.registered import Sight
from foveate.budgets.tiling import Tiling, single
from foveate.errors import InputError
from foveate.plans import Step
from foveate.vlm._base import FAMILIES, Family, Inputs, Look
from foveate.vlm.scoring import blocks_of, input_of, last_block, listening
from foveate.vlm.towers import ReducedTower


class Tiled(Family):
    """Pictures go through a vision tower tile by tile, and through `multi_modal_projector`."""

    tower: ReducedTower | None = None

    @property
    def grid(self) -> int:
        """A tile's side in tokens."""
        vision = self.config.vision_config
        return one(vision.image_size) // one(vision.patch_size)

    def arguments(self, inputs: Inputs) -> dict[str, Any]:
        """What `get_image_features` is given."""
        return {"pixel_values": inputs["pixel_values"]}

    def encode(
        self, inputs: Inputs, tilings: Sequence[Tiling], needs: frozenset[str]
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Run the tower.

        Returns:
            given [T m D], what the projector takes of every tile; early [pictures patches]; late and keys
            [T patches (D)] in the tower's own patches.
        """
        check_tiles(inputs["pixel_values"], tilings)
        if self.tower is not None:
            return self.tower.run(self.tiles(inputs, tilings), self.whole_views(tilings))
        tower = self.core.vision_tower
        wanted: dict[int, Tensor | None] = {}
        late, whole = 0, self.whole_views(tilings)
        if needs & {"late", "keys", "padded"}:
            late = last_block(self.feature_layer(inputs), len(blocks_of(tower)))
            wanted[late] = None
        early = "early" in needs and any(t.tiles and t.viewed for t in tilings)
        if early:
            wanted.setdefault(0, torch.tensor(whole, device=next(tower.parameters()).device))
        with listening(tower, wanted, heads=tower.config.num_attention_heads, prefix=prefix_of(tower)) as heard:
            given = input_of(
                self.core.multi_modal_projector, lambda: self.core.get_image_features(**self.arguments(inputs))
            )
        first = heard[0].received() if early else None
        if first is not None and heard[0].tiles is None:
            first = first[whole]
        return (
            given,
            first,
            heard[late].received() if needs & {"late", "padded"} else None,
            heard[late].keys() if "keys" in needs else None,
        )

    def reduce_encoder(self, steps: Sequence[Step] | str) -> None:
        """Let the tower's own blocks merge tokens from now on.

        Raises:
            InputError: a tower or steps that cannot be used.
        """
        if prefix_of(self.core.vision_tower) and self.config.vision_feature_select_strategy == "full":
            raise InputError("an encoder whose class token is shown to the language model cannot be reduced")
        self.tower = ReducedTower(self.core.vision_tower, steps, self.config.vision_feature_layer)
        self.reduces_encoder = True

    def tiles(self, inputs: Inputs, tilings: Sequence[Tiling]) -> Tensor:
        """All tiles of a batch, [T 3 H W], without those that fill it up."""
        pixels = inputs["pixel_values"]
        if pixels.ndim == 5:
            pixels = torch.cat([p[: t.tiles + int(t.viewed)] for p, t in zip(pixels, tilings, strict=True)])
        return pixels

    def whole_views(self, tilings: Sequence[Tiling]) -> list[int]:
        """Which tile of the batch is the whole view of each picture."""
        first, found = 0, []
        for tiling in tilings:
            found.append(first + (tiling.tiles if tiling.whole_last else 0))
            first += tiling.tiles + int(tiling.viewed)
        return found

    def feature_layer(self, inputs: Inputs) -> int | list[int]:
        return inputs.get("vision_feature_layer") or self.config.vision_feature_layer

    def project(self, given: Tensor) -> Tensor:
        return self.core.multi_modal_projector(given[None])[0]


@final
@FAMILIES.register("llava")
class Llava(Tiled):
    types = ("llava",)

    def tiling(self, image_size: tuple[int, int]) -> Tiling:
        return single(self.grid, self.grid)

    def tilings(self, inputs: Inputs) -> list[Tiling]:
        pixels = inputs["pixel_values"]
        if not isinstance(pixels, Tensor) or pixels.ndim != 4:
            raise InputError(f"pixel_values of {getattr(pixels, 'shape', type(pixels))}; allowed: [pictures 3 H W]")
        return [self.tiling((0, 0))] * len(pixels)

    def looks(self, inputs: Inputs, tilings: Sequence[Tiling], needs: frozenset[str]) -> list[Look]:
        given, _, late, keys = self.encode(inputs, tilings, needs)
        cells = torch.arange(given.shape[1], device=given.device)[:, None]
        return [
            Look(
                Sight(
                    tiling,
                    late=None if late is None else late[n],
                    keys=None if keys is None else keys[n],
                    features=given[n] if "features" in needs else None,
                    padded=late[n][None] if late is not None and "padded" in needs else None,
                ),
                given[n],
                cells,
            )
            for n, tiling in enumerate(tilings)
        ]


def check_tiles(pixels: Any, tilings: Sequence[Tiling]) -> None:
    """Are there as many tiles as the pictures' sizes say?

    Raises:
        InputError: another number of them.
    """
    wanted = [tiling.tiles + int(tiling.viewed) for tiling in tilings]
    shape = tuple(getattr(pixels, "shape", ()))
    if len(shape) == 5 and (shape[0] != len(wanted) or shape[1] < max(wanted)):
        raise InputError(
            f"pixel_values {list(shape)}: {len(wanted)} pictures of up to {max(wanted)} tiles were announced"
        )
    if len(shape) == 4 and shape[0] != sum(wanted):
        raise InputError(f"pixel_values {list(shape)}: the pictures' sizes make {sum(wanted)} tiles")
    if len(shape) not in (4, 5):
        raise InputError(f"pixel_values {list(shape)}; allowed: [tiles 3 H W] or [pictures tiles 3 H W]")


def one(side: int | Sequence[int]) -> int:
    """The side of a square that configurations write as a number or as two."""
    return side if isinstance(side, int) else side[0]


def prefix_of(tower: Any) -> int:
    """Tokens before the patches: a class token and registers, none in SigLIP's."""
    names = {name.rpartition(".")[2] for name, _ in tower.named_parameters()}
    return 1 + getattr(tower.config, "num_register_tokens", 0) if names & {"cls_token", "class_embedding"} else 0
