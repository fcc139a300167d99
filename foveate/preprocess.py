"""From a photograph to a model's input: the file is read with care, then resized, cropped and normalised as timm does.

Only numpy and Pillow, so that what is written beside a deployed model can be served without torch.
"""

import ctypes
import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foveate.errors import InputError, TooLarge, one_of
from foveate.files import read_text, write_text

MIN_SIDE = 8  # pixels; below that a photograph holds less than one patch
MAX_PIXELS = 89_478_485  # Pillow's own limit, 256 MiB of RGB: more is a decompression bomb or a mistake
MAX_ASPECT = 50  # long side over short side; the short side is scaled to the model's, so the long one explodes
ROWS = 256  # of a photograph that are converted at a time
MAX_FILE_BYTES = 512 * 2**20
_AVIF = features.check("avif")  # Pillow 11.3 and newer, where it was built with it
SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    *((".avif",) if _AVIF else ()),
)  # fmt: skip
# Named, so that nothing which runs a program (EPS) or guesses is tried on a user's file; JPEG opens MPO as well.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *(("AVIF",) if _AVIF else ()))
# A pixel, from the file to an upright RGB image: the most measured of each (progressive CMYK, alpha, 16 bits ...).
DECODER_BYTES = {"JPEG": 12, "PNG": 9, "WEBP": 18, "BMP": 8, "GIF": 8, "TIFF": 9, "PPM": 10, "AVIF": 16}
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by the channels of a model
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Side = Annotated[int, Field(ge=1, le=8192)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Preprocess(BaseModel):
    """What turns a photograph into a model's input; equal to timm's evaluation transform.

    size: (height, width) of the input in pixels. crop_pct: share of the resized image's side that the crop keeps.
    crop_mode: `center` keeps the aspect ratio and loses the edges, `squash` resizes each side on its own.
    mean, std: a channel, for values in 0..1; their number says what the model sees: 1 grey, 3 RGB, 4 RGB and alpha.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Side, Side]
    crop_pct: Annotated[float, Field(ge=0.05, le=1)] = 0.875  # of less, resizing would make an image of any size
    crop_mode: Literal["center", "squash"] = "center"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[Finite, ...] = (0.485, 0.456, 0.406)
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if len(self.mean) not in MODES or len(self.std) != len(self.mean):
            raise ValueError(
                f"{len(self.mean)} values of mean and {len(self.std)} of std; allowed: as many of each, 1, 3 or 4"
            )
        return self

    @property
    def channels(self) -> int:
        return len(self.mean)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> "Preprocess":
        """From what `timm.data.resolve_model_data_config` returns.

        A model of one channel or four whose configuration has the figures of three takes their mean for grey, and
        leaves the fourth as it is (mean 0, std 1).

        Raises:
            InputError: for what is not supported (other channels than 1, 3 and 4, other interpolations or crop modes).
        """
        channels, height, width = config["input_size"]
        if channels not in MODES:
            raise InputError(f"the model takes {channels} channels; allowed: 1 (grey), 3 (RGB) or 4 (RGB and alpha)")
        fields = {k: config[k] for k in ("crop_pct", "crop_mode", "interpolation", "mean", "std") if config.get(k)}
        for name, fourth in (("mean", 0.0), ("std", 1.0)):
            given = tuple(fields.get(name, cls.model_fields[name].default))
            if len(given) == 3 and channels == 1:
                given = (sum(given) / 3,)
            elif len(given) == 3 and channels == 4:
                given = (*given, fourth)
            elif len(given) == 1:
                given *= channels
            fields[name] = given
        return _checked(lambda: cls(size=(height, width), **fields), "the model's preprocessing")

    def changed(self, to: "Preprocess | Mapping[str, Any] | None") -> "Preprocess":
        """With other values of some fields; the size stays the model's, and so does the number of channels.

        Raises:
            InputError: an unknown field, a value that it cannot have, another size or number of channels.
        """
        if to is None:
            return self
        values = to.model_dump() if isinstance(to, Preprocess) else dict(to)
        for name in ("mean", "std"):
            if isinstance(given := values.get(name), int | float) and not isinstance(given, bool):
                values[name] = (given,) * self.channels
        if unknown := [name for name in values if name not in Preprocess.model_fields]:
            raise one_of("field of preprocess", unknown[0], Preprocess.model_fields)
        made = _checked(lambda: Preprocess(**(self.model_dump() | values)), "preprocess")
        if made.size != self.size:
            raise InputError(
                f"preprocess: size {made.size[0]} x {made.size[1]}; the model takes {self.size[0]} x {self.size[1]}: "
                "change that with the model's option img_size"
            )
        if made.channels != self.channels:
            raise InputError(f"preprocess: mean of {made.channels} channels; the model takes {self.channels}")
        return made

    def __call__(self, image: Image.Image) -> np.ndarray:
        """float32 (channels h w) of an image, which is converted to the model's channels."""
        mode = MODES[self.channels]
        image = image if image.mode == mode else image.convert(mode)
        (wide, high), box = self.placed(image.height, image.width)
        if (wide, high) != image.size:
            image = image.resize((wide, high), _FILTERS[self.interpolation])
        image = image.crop(box)
        pixels = np.asarray(image, dtype=np.float32).reshape(*self.size, self.channels)
        x = pixels.transpose(2, 0, 1) / np.float32(255)
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


def read_image(path: str | Path, *, channels: int = 3) -> Image.Image:
    """The photograph in `path`, upright; see `decode_image`.

    Raises:
        InputError: one line that names the file, what is wrong and what is allowed.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"image {path} is a folder; allowed: one of {' '.join(SUFFIXES)}")
        if path.exists() and not path.is_file():  # a pipe or a device is never at its end
            raise InputError(f"image {path} is no regular file; allowed: one of {' '.join(SUFFIXES)}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"image {path} has {path.stat().st_size:,} bytes; allowed: at most {MAX_FILE_BYTES:,}")
        data = path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read image {path}: {e.strerror or e}") from None
    return decode_image(data, str(path), channels=channels)


def decode_image(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, channels: int = 3) -> Image.Image:
    """The photograph in `data` as an upright RGB image; `name` stands in the errors.

    With `channels=4` transparency stays, as a fourth channel.

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
            image = _upright(image)
            return _rgb(image, name) if channels != 4 else _rgba(image, name)
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image foveate can read; allowed: {' '.join(SUFFIXES)}") from None
    except Image.DecompressionBombError:
        raise TooLarge(f"image {name} has too many pixels; allowed: at most {max_pixels:,}") from None
    except Exception as e:  # damaged files make decoders raise nearly anything: OSError, SyntaxError, zlib.error ...
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"image {name} is truncated or corrupt ({reason}); allowed: a whole image file") from None


def decoding_bytes(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> int:
    """What `decode_image` takes for `data` at most, from its header; 0 where it refuses that."""
    try:
        with _quiet():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            _check_size(image, name, max_pixels)
    except Exception:  # told in words when it is decoded
        return 0
    return image.width * image.height * DECODER_BYTES.get(image.format or "", max(DECODER_BYTES.values()))


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
    with suppress(Exception):  # a damaged EXIF block says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise InputError(f"image {name} has 32-bit float pixels; allowed: 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's convert would clip it at 255
        return _in_strips(image, lambda strip: _grey_of_16(strip, name))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _in_strips(image, _on_white)
    return image.convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert` to RGB what needs several times the image's memory on the way, a few rows at a time."""
    out = Image.new("RGB", image.size)
    for top in range(0, image.height, ROWS):
        strip = image.crop((0, top, image.width, min(top + ROWS, image.height)))
        out.paste(convert(strip), (0, top))
    return out


def _grey_of_16(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"image {name} has pixels beyond 16 bits; allowed: 8 or 16 bits a channel")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")


def _rgba(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return image.convert("RGBA")
    return _rgb(image, name).convert("RGBA")


def _quiet_libtiff() -> None:
    """libtiff writes what is wrong with a file to stderr by itself, between the JSON lines of a server's log; Pillow
    raises it as well."""
    with suppress(OSError, AttributeError):  # linked in some other way
        library = ctypes.CDLL(str(Image.core.__file__))
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            getattr(library, name)(None)


_quiet_libtiff()
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
        raise InputError(f"{what}: {where} = {first['input']!r:.80} is not valid: {first['msg']}") from None
