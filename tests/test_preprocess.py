"""Preprocessing equals timm's; whatever is wrong with an image file becomes one clear line."""

import logging
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.images import BAD_IMAGES, ODD_IMAGES, two_tone

from foveate.errors import InputError
from foveate.preprocess import MAX_PIXELS, Preprocess, decode_image, read_image

SHAPES = [(375, 500), (500, 333), (160, 213), (97, 640), (224, 224), (248, 248), (31, 77)]  # h, w


def timm_transform(p: Preprocess):
    from timm.data import create_transform

    return create_transform(
        input_size=(3, *p.size),
        is_training=False,
        interpolation=p.interpolation,
        mean=p.mean,
        std=p.std,
        crop_pct=p.crop_pct,
        crop_mode=p.crop_mode,
    )


@pytest.mark.parametrize("size", [(224, 224), (192, 256), (256, 128)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0, 224 / 248])
def test_equals_timm(photos, size, crop_pct):
    photo = read_image(photos[0])
    for i, (high, wide) in enumerate(SHAPES):
        image = photo.resize((wide, high))
        for crop_mode in ("center", "squash"):
            p = Preprocess(
                size=size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation=("bicubic", "bilinear")[i % 2]
            )
            ours, theirs = p(image), timm_transform(p)(image).numpy()
            assert ours.dtype == np.float32 and ours.shape == theirs.shape == (3, *size)
            assert np.abs(ours - theirs).max() <= 1e-6, (high, wide, crop_mode)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_256", "vit_small_patch14_dinov2"])
def test_follows_the_models_config(name, photos):
    import timm
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(timm.create_model(name, depth=1, embed_dim=192, num_heads=3))
    p = Preprocess.from_timm(config)
    theirs = create_transform(**config)
    for path in photos:
        image = read_image(path)
        assert np.abs(p(image) - theirs(image).numpy()).max() <= 1e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.floats(0.6, 1.0), st.integers(8, 64), st.integers(8, 64))
def test_every_size_gives_the_models(high, wide, crop_pct, h, w):
    p = Preprocess(size=(h, w), crop_pct=crop_pct, mean=(0.5,) * 3, std=(0.5,) * 3)
    image = Image.new("RGB", (wide, high), (255, 255, 255))
    assert np.allclose(p(image), 1.0)  # all of the crop lies inside the image: nothing was padded
    assert np.array_equal(p(image), timm_transform(p)(image).numpy())


def test_round_trip_and_bad_files(tmp_path):
    p = Preprocess(size=(224, 192), crop_pct=0.9, interpolation="bilinear", mean=(0.1, 0.2, 0.3))
    path = p.save(tmp_path / "preprocess.json")
    assert Preprocess.load(path) == p
    for text in (
        "",
        "{",
        "[]",
        "{}",
        '{"size": [0, 2]}',
        '{"size": [2, 2], "crop_pct": 0}',
        '{"size": [2, 2], "x": 1}',
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(str(path))) as e:
            Preprocess.load(path)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="cannot read"):
        Preprocess.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change", [{"input_size": (2, 224, 224)}, {"interpolation": "lanczos"}, {"crop_mode": "border"}, {"std": (0, 1, 1)}]
)
def test_refuses_what_it_does_not_do(change):
    config = {"input_size": (3, 224, 224), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    with pytest.raises(InputError):
        Preprocess.from_timm({**config, **change})


WRONG = {
    "missing": "No such file",
    "folder": "is a folder",
    "truncated": "truncated",
    "corrupt": "corrupt",
    "empty": "0 bytes",
    "text": "not an image",
    "tiny": "1x1 px; allowed: at least 8",
    "bomb": f"at most {MAX_PIXELS:,}",
    "sliver": "50 times",
    "float": "32-bit float",
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_is_one_clear_line(kind, odd_image, recwarn, caplog):
    caplog.set_level(logging.WARNING)
    path = odd_image(kind)
    with pytest.raises(InputError) as e:
        read_image(path)
    line = str(e.value)
    assert str(path) in line and WRONG[kind] in line and "\n" not in line
    assert e.value.__suppress_context__ or e.value.__context__ is None
    assert not recwarn and not caplog.records


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_odd_image_becomes_rgb(kind, odd_image, recwarn):
    image = read_image(odd_image(kind))
    assert image.mode == "RGB" and not recwarn
    x = np.asarray(image).astype(int)
    assert x.shape == ((64, 48, 3) if kind == "rotated" else (48, 64, 3))
    dark, bright = (120, 10, 10), (30, 240, 60)
    if kind in ("cmyk", "palette", "animated"):
        assert np.abs(x[10, 10] - dark).max() <= 30 and np.abs(x[40, 10] - bright).max() <= 30
    elif kind == "rotated":  # the upper half comes to lie on the right
        assert np.abs(x[32, 40] - dark).max() <= 30 and np.abs(x[32, 8] - bright).max() <= 30
    elif kind == "alpha":
        assert tuple(x[10, 10]) == dark and tuple(x[10, 50]) == (255, 255, 255)
    elif kind == "grey16":  # a ramp over all 16 bits: scaled, where Pillow's own convert clips at 255
        assert np.array_equal(x[0, :, 0], np.round(np.arange(64) * 1040 / 257))
    elif kind == "rgb16":
        assert np.abs(x[0, 0] - (128, 10, 255)).max() <= 1


def test_opaque_alpha_changes_nothing(photos, tmp_path):
    photo = read_image(photos[0])
    photo.convert("RGBA").save(path := tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(photo))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_bytes_never_escape(data):
    """Whatever bytes come, decoding gives an image or an InputError."""
    import io

    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"]))
    two_tone(size=(24, 16)).save(buffer, kind)
    whole = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        image = decode_image(bytes(whole[:cut]), "x")
    except InputError as e:
        assert "\n" not in str(e)
    else:
        assert image.mode == "RGB"


def test_threads_leave_the_warning_filters_alone(odd_image):
    before = list(warnings.filters)
    paths = [odd_image(kind) for kind in ("grey", "tiny", "palette", "corrupt", "bomb")] * 8

    def read(path):
        try:
            return read_image(path).size
        except InputError:
            return None

    with ThreadPoolExecutor(4) as pool:
        sizes = list(pool.map(read, paths))
    assert warnings.filters == before
    assert sizes[:5] == [(64, 48), None, (64, 48), None, None]
