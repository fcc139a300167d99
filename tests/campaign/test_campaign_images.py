"""Photographs that are damaged, or made to do harm: an image or a line, in bounded time and memory, and no noise."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from campaign.mutate import mutated_bytes
from campaign.tally import dice, tally, trials

pytestmark = pytest.mark.slow

READER = """
import json, resource, struct, sys, time
from foveate.errors import InputError
from foveate.preprocess import Preprocess, decode_image
preprocess = Preprocess(size=(64, 64))
print("ready", flush=True)
while head := sys.stdin.buffer.read(4):
    data, fault, began = sys.stdin.buffer.read(struct.unpack("<I", head)[0]), None, time.monotonic()
    try:
        preprocess(decode_image(data, "it"))
        read = True
    except InputError as e:
        read, fault = False, None if len(str(e)) < 400 and "\\n" not in str(e) else f"no short line: {e}"
    except BaseException as e:
        read, fault = False, f"{type(e).__name__}: {e}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([fault, time.monotonic() - began, peak, read]), flush=True)
"""


def originals() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
    deep = Image.fromarray((np.arange(72 * 96, dtype=np.uint16) * 9).reshape(72, 96))
    clear = small.convert("RGBA")
    clear.putalpha(small.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    made: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "jpeg": (small, "JPEG", {"exif": turned}), "progressive": (small, "JPEG", {"progressive": True}),
        "cmyk": (small.convert("CMYK"), "JPEG", {}), "grey": (small.convert("L"), "JPEG", {}),
        "png": (small, "PNG", {}), "png16": (deep, "PNG", {}), "alpha": (clear, "PNG", {}),
        "palette": (small.quantize(16), "PNG", {"transparency": 3}), "gif": (small.quantize(32), "GIF", {}),
        "gifs": (small.quantize(32), "GIF", {"save_all": True, "append_images": [small.quantize(8)] * 3}),
        "webp": (small, "WEBP", {}), "lossless": (clear, "WEBP", {"lossless": True}), "bmp": (small, "BMP", {}),
        "tiff": (small, "TIFF", {}), "lzw": (small, "TIFF", {"compression": "tiff_lzw"}),
        "deflate": (small, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpegtiff": (small, "TIFF", {"compression": "jpeg"}), "tiff16": (deep, "TIFF", {}),
        "fax": (small.convert("1"), "TIFF", {"compression": "group4"}), "ppm": (small, "PPM", {}),
        "pgm16": (deep, "PPM", {}),
    }  # fmt: skip
    if features.check("avif"):
        made["avif"] = (small, "AVIF", {})
    found = {}
    for name, (image, kind, options) in made.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        found[name] = file.getvalue()
    return found


def test_mutated_images():
    with tally("mutated photographs") as found:
        random, most, longest, read = dice("images"), 0, 0.0, 0
        every = list(originals().items())
        child = subprocess.Popen(
            [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        assert child.stdout.readline() == b"ready\n"
        for i in range(trials(4000)):
            name, data = every[i % len(every)]
            for _ in range(random.choice([1, 1, 2, 5])):
                data, what = mutated_bytes(data, random)
            child.stdin.write(len(data).to_bytes(4, "little") + data)
            child.stdin.flush()
            line = child.stdout.readline()
            assert line, f"the process died of trial {i}: {name}, {what}"
            fault, took, peak, whole = json.loads(line)
            most, longest, read = max(most, peak), max(longest, took), read + whole
            fault = fault or (f"took {took:.1f} s" if took > 10 else None)
            found.count(fault and f"trial {i}, {name}: {what}: {fault}")
        said = child.communicate()[1].decode(errors="replace")
        found.facts |= {"read": read, "longest_s": round(longest, 1), "peak_mb": most}
        assert said == "", f"it wrote to stderr: {said[:500]}"
        assert 0 < read < found.tried
        assert most < 1500, "memory"


def test_the_originals_are_read(tmp_path: Path):
    from foveate.preprocess import decode_image

    for name, data in originals().items():
        assert decode_image(data, name).mode == "RGB"
