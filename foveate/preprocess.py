"""From a photograph to a model's input: the file is read with care, then resized, cropped and normalised as timm does.

Only numpy and Pillow, so that what is written beside a deployed model can be served without torch.
"""

import io
import math
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from foveate.errors import InputError, TooLarge
from foveate.files import read_text, write_text

MIN_SIDE = 8  # pixels; below that a photograph holds less than one patch
MAX_PIXELS = 89_478_485  # Pillow's own limit, 256 MiB of RGB: more is a decompression bomb or a mistake
MAX_ASPECT = 50  # long side over short side; the short side is scaled to the model's, so the long one explodes
MAX_FILE_BYTES = 512 * 2**20
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# Named, so that nothing which runs a program (EPS) or guesses is tried on a user's file; JPEG opens MPO as well.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Preprocess(BaseModel):
    """What turns an RGB photograph into a model's input; equal to timm's evaluation transform.

    size: (height, width) of the input in pixels. crop_pct: share of the resized image's side that the crop keeps.
    crop_mode: `center` keeps the aspect ratio and loses the edges, `squash` resizes each side on its own.
    mean, std: a channel, for values in 0..1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> "Preprocess":
        """From what `timm.data.resolve_model_data_config` returns.

        Raises:
            InputError: for what is not supported (other than three channels, other interpolations or crop modes).
        """
        channels, height, width = config["input_size"]
        if channels != 3:
            raise InputError(f"the model takes {channels} channels; allowed: 3 (RGB)")
        fields = {k: config[k] for k in ("crop_pct", "crop_mode", "interpolation", "mean", "std") if config.get(k)}
        return _checked(lambda: cls(size=(height, width), **fields), "the model's preprocessing")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """float32 (3 h w) of an RGB image (any other mode is converted)."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        (wide, high), box = self.placed(image.height, image.width)
        if (wide, high) != image.size:
            image = image.resize((wide, high), _FILTERS[self.interpolation])
        image = image.crop(box)
        x = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (self.mean, self.std))
        return np.ascontiguousarray((x - mean) / std)

    def placed(self, high: int, wide: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """What becomes of an image: (width, height) it is resized to, and the box (left, top, right, bottom) of that
        which the model sees. The same for whatever lies over it, masks for instance."""
        high, wide = self._resized(high, wide)
        top, left = round((high - self.size[0]) / 2), round((wide - self.size[1]) / 2)
        return (wide, high), (left, top, left + self.size[1], top + self.size[0])

    def _resized(self, high: int, wide: int) -> tuple[int, int]:
        """(h, w) after resizing. The roundings are torchvision 0.27's (square) and timm 1.0.31's (otherwise)."""
        target_h, target_w = (math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "squash":
            return target_h, target_w
        if target_h == target_w:
            short, long = target_h, int(target_h * max(high, wide) / min(high, wide))
            return (long, short) if wide <= high else (short, long)
        ratio = min(high / target_h, wide / target_w)
        return round(high / ratio), round(wide / ratio)

    def save(self, path: str | Path) -> Path:
        return write_text(path, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "Preprocess":
        text = read_text(path)
        return _checked(lambda: cls.model_validate_json(text), str(path))


def read_image(path: str | Path) -> Image.Image:
    """The photograph in `path` as RGB, upright; see `decode_image`.

    Raises:
        InputError: one line that names the file, what is wrong and what is allowed.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"image {path} is a folder; allowed: one of {' '.join(SUFFIXES)}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"image {path} has {path.stat().st_size:,} bytes; allowed: at most {MAX_FILE_BYTES:,}")
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read image {path}: {e.strerror or e}") from None
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The photograph in `data` as an upright RGB image; `name` stands in the errors.

    The first frame of an animation; EXIF orientation applied; what is transparent lies on white; 16 bits a channel are
    scaled to 8, never clipped; CMYK, palette and grey are converted. Colour profiles are not applied (nor does timm).

    Raises:
        InputError: empty, not an image, truncated or corrupt, under 8 px a side, over `max_pixels`, longer
            than 50 times its width, or with pixels that have no fixed range (32-bit float).
    """
    if not data:
        raise InputError(f"image {name} is empty (0 bytes); allowed: {' '.join(SUFFIXES)}")
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(image, name, max_pixels)
            image.load()  # of an animation: the first frame
            return _rgb(_upright(image), name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image foveate can read; allowed: {' '.join(SUFFIXES)}") from None
    except Image.DecompressionBombError:
        raise TooLarge(f"image {name} has too many pixels; allowed: at most {max_pixels:,}") from None
    except Exception as e:  # damaged files make decoders raise nearly anything: OSError, SyntaxError, zlib.error ...
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"image {name} is truncated or corrupt ({reason}); allowed: a whole image file") from None


def _check_size(image: Image.Image, name: str, max_pixels: int) -> None:
    """Before anything is decoded, from the header alone."""
    short, long = sorted(image.size)
    shown = f"image {name} is {image.width}x{image.height} px"
    if short < MIN_SIDE:
        raise InputError(f"{shown}; allowed: at least {MIN_SIDE} px a side")
    if short * long > max_pixels:
        raise TooLarge(f"{shown}; allowed: at most {max_pixels:,} pixels")
    if long > MAX_ASPECT * short:
        raise InputError(f"{shown}; allowed: a long side of at most {MAX_ASPECT} times the short one")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return image


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise InputError(f"image {name} has 32-bit float pixels; allowed: 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's convert would clip it at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"image {name} has pixels beyond 16 bits; allowed: 8 or 16 bits a channel")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_outer: warnings.catch_warnings | None = None


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings from Pillow (bombs, damaged metadata), also when threads overlap.

    `warnings.catch_warnings` alone restores the wrong filters when two threads leave it out of order, so the first to
    come opens it and the last to go closes it.
    """
    global _quiet_depth, _quiet_outer
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_outer = warnings.catch_warnings()
            _quiet_outer.__enter__()
            warnings.simplefilter("ignore")
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _quiet_outer is not None:
                _quiet_outer.__exit__(None, None, None)
                _quiet_outer = None


def _checked(make: Any, what: str) -> "Preprocess":
    try:
        return make()
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise InputError(f"{what}: {where} = {first['input']!r} is not valid: {first['msg']}") from None
