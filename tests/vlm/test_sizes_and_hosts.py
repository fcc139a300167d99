"""Counts and places from sizes alone against what Hugging Face's own code makes of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import vlms
from support.tilings import PINPOINTS

import foveate.vlm
from foveate.budgets import sizes
from foveate.errors import InputError

pytest.importorskip("transformers")
SIDE = st.integers(1, 4000)


@settings(deadline=None, max_examples=300)
@given(SIDE, SIDE)
def test_llava_next(height: int, width: int):
    from transformers.image_processing_utils import select_best_resolution
    from transformers.models.llava_next.modeling_llava_next import unpad_image

    canvas = select_best_resolution((height, width), PINPOINTS)
    mosaic = torch.zeros(1, canvas[0] // 14, canvas[1] // 14)
    shape = unpad_image(mosaic, (height, width)).shape[1:]
    if not shape.numel():
        with pytest.raises(InputError, match="too long"):
            sizes.anyres((height, width), PINPOINTS)
        return
    tiling = sizes.anyres((height, width), PINPOINTS)
    assert sizes.best_canvas((height, width), PINPOINTS) == canvas
    assert (len(tiling.down), len(tiling.across)) == tuple(shape)
    assert tiling.tokens == 576 + shape.numel() + shape[0]
    assert tiling.nominal == 576 * (1 + canvas[0] // 336 * (canvas[1] // 336))


@settings(deadline=None, max_examples=200)
@given(SIDE, SIDE)
def test_where_a_picture_lies_on_its_canvas(height: int, width: int):
    from transformers.image_processing_utils import get_patch_output_size
    from transformers.image_utils import ChannelDimension
    from transformers.models.llava_next.image_processing_llava_next import LlavaNextImageProcessor

    canvas = sizes.best_canvas((height, width), PINPOINTS)
    shown = get_patch_output_size(torch.empty(3, height, width), canvas, ChannelDimension.FIRST)
    left, top, *_ = LlavaNextImageProcessor._get_padding_size(None, shown, canvas)
    down, across = sizes.extents((height, width), canvas)
    assert down == (top / canvas[0], (top + shown[0]) / canvas[0])
    assert across == (left / canvas[1], (left + shown[1]) / canvas[1])


@settings(deadline=None, max_examples=300)
@given(SIDE, SIDE, st.integers(1, 4), st.integers(4, 12))
def test_internvl(height: int, width: int, least: int, most: int):
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    wanted = get_optimal_tiled_canvas((height, width), (448, 448), least, most)
    assert sizes.closest_grid((height, width), 448, least, most) == wanted
    tiles = wanted[0] * wanted[1]
    tiling = sizes.squeezed((height, width), min_tiles=least, max_tiles=most)
    assert tiling.tokens == 256 * (tiles + (tiles > 1))


@settings(deadline=None, max_examples=300)
@given(SIDE, SIDE)
def test_qwen(height: int, width: int):
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    bounds = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 1280}
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(InputError, match="200 times"):
            sizes.dynamic((height, width))
        return
    tall, wide = smart_resize(height, width, factor=28, **bounds)
    assert sizes.dynamic((height, width), **bounds).whole == (tall // 28, wide // 28)


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize("size", [(100, 90), (60, 170), (170, 60), (30, 30), (500, 480), (90, 400)])
def test_packed_rows_are_where_we_say(name: str, size: tuple[int, int]):
    """Row numbers sent through the host's own packing, -1 for a newline, come out in our order."""
    model = vlms.model(name)
    family = foveate.vlm.family_of(model)
    tiling = family.tiling(size)
    patches = (1 + tiling.tiles) * 16
    numbers = torch.arange(patches, dtype=torch.float32).reshape(1 + tiling.tiles, 16, 1)
    options = {"vision_feature_select_strategy": "default"} if name == "llava_next" else {}
    if name == "llava_onevision":
        options["vision_aspect_ratio"] = model.config.vision_aspect_ratio
    (packed,), _ = model.model.pack_image_features(
        [numbers], torch.tensor([size]), image_newline=torch.tensor([-1.0]), **options
    )
    sources, weights = family.sources(tiling, torch.device("cpu"))
    cells = sources[:, 0].float() if weights is None else (sources * weights).sum(1)
    assert packed[list(tiling.row), 0] == pytest.approx(cells, abs=1e-4)
    assert (packed[list(tiling.newline_row), 0] == -1).all() and len(packed) == tiling.tokens


def test_internvl_finds_its_tiles_by_looking():
    """Neither sizes nor shapes are told: the mosaic that looks like the thumbnail is the one."""
    from torch.nn.functional import interpolate

    from foveate.vlm.internvl import arrangement

    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for rows, columns in ((1, 2), (2, 1), (2, 3), (3, 2), (1, 6), (6, 1), (2, 2), (1, 1), (1, 7)):
        canvas = interpolate(picture, (56 * rows, 56 * columns), mode="bilinear")[0]
        tiles = canvas.unflatten(1, (rows, 56)).unflatten(3, (columns, 56)).permute(1, 3, 0, 2, 4).flatten(0, 1)
        thumbnail = interpolate(picture, (56, 56), mode="bilinear")
        seen = torch.cat([tiles, thumbnail]) if rows * columns > 1 else tiles
        assert arrangement(seen) == (rows, columns)
