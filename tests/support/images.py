"""Images with something odd or wrong about them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

BAD_IMAGES = ("missing", "truncated", "corrupt", "empty", "text", "tiny", "bomb", "sliver", "folder", "float")
ODD_IMAGES = ("cmyk", "grey16", "rgb16", "animated", "rotated", "palette", "alpha", "bilevel", "grey")


def two_tone(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Dark red above, bright green below."""
    wide, high = size
    x = np.zeros((high, wide, 3), np.uint8)
    x[: high // 2], x[high // 2 :] = (120, 10, 10), (30, 240, 60)
    return Image.fromarray(x).convert(mode)


def _jpeg(image: Image.Image, **kwargs: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **kwargs)
    return buffer.getvalue()


def write_odd(kind: str, folder: Path) -> Path:
    photo = two_tone()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    jpg, png, tif, gif = (folder / f"{kind}{suffix}" for suffix in (".jpg", ".png", ".tif", ".gif"))
    if kind == "missing":
        return jpg
    if kind == "folder":
        jpg.mkdir()
        return jpg
    if kind in ("truncated", "empty", "text", "rotated"):
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to stand upright
        data = {"empty": b"", "text": b"not an image\n" * 9, "rotated": _jpeg(photo, exif=exif)}
        jpg.write_bytes(data.get(kind, _jpeg(noise)[:-900]))
        return jpg
    if kind == "corrupt":  # a PNG whose compressed pixels were overwritten
        noise.save(png)
        data = bytearray(png.read_bytes())
        data[len(data) // 3 : len(data) // 3 + 400] = b"\xff" * 400
        png.write_bytes(data)
    elif kind == "grey16":
        Image.fromarray((np.arange(64, dtype=np.uint16) * 1040)[None].repeat(48, 0)).save(png)
    elif kind == "rgb16":
        _png_rgb16(png)
    elif kind == "float":
        Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(tif)
        return tif
    elif kind == "animated":
        photo.save(gif, save_all=True, append_images=[Image.new("RGB", photo.size, "blue")], duration=50)
        return gif
    elif kind == "cmyk":
        photo.convert("CMYK").save(jpg, quality=95)
        return jpg
    elif kind == "alpha":
        photo.putalpha(Image.fromarray(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)[None].repeat(48, 0)))
        photo.save(png)
    else:
        plain = {
            "tiny": lambda: Image.new("RGB", (1, 1)),
            "bomb": lambda: Image.new("1", (13_000, 14_000)),
            "sliver": lambda: Image.new("RGB", (8, 800)),
            "palette": lambda: photo.convert("P", palette=Image.Palette.ADAPTIVE),
            "bilevel": lambda: photo.convert("1"),
            "grey": lambda: photo.convert("L"),
        }
        plain[kind]().save(png)
    return png


def _png_rgb16(path: Path) -> None:
    """A 16-bit colour PNG of one colour (128.5, 10, 255 of 255); Pillow reads these but cannot write them."""
    import struct
    import zlib

    def chunk(tag: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    wide, high = 64, 48
    row = b"\0" + struct.pack(">HHH", 0x8080, 0x0A0A, 0xFFFF) * wide
    header = struct.pack(">IIBBBBB", wide, high, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * high)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
