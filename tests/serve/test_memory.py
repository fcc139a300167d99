"""Memory that threads share: bounded together, in the order of asking, and what a photograph really takes."""

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

from foveate.preprocess import decode_image, decoding_bytes
from foveate.serve.memory import Memory


def test_never_more_than_all_of_it_and_everybody_gets_his_turn():
    memory, held, most, done = Memory(100), [0], [0], list[int]()
    lock = threading.Lock()

    def take(size):
        with memory.taking(size):
            with lock:
                held[0] += min(size, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= min(size, 100)
                done.append(size)

    threads = [threading.Thread(target=take, args=(size,)) for size in (30, 90, 500, 10, 60, 100, 1) * 5]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert len(done) == 35 and most[0] <= 100 and memory.free == 100


def test_small_ones_do_not_pass_a_large_one_for_ever():
    memory, order = Memory(100), list[str]()
    first = memory.taking(60)
    first.__enter__()

    def take(size, name):
        with memory.taking(size):
            order.append(name)

    threads = []
    for size, name in ((80, "large"), (10, "small")):
        threads.append(threading.Thread(target=take, args=(size, name)))
        threads[-1].start()
        while len(memory._waiting) < len(threads):
            time.sleep(0.001)
    assert order == []
    first.__exit__(None, None, None)
    for t in threads:
        t.join(30)
    assert order == ["large", "small"]


def test_a_failure_gives_it_back():
    memory = Memory(10)
    with pytest.raises(ZeroDivisionError), memory.taking(10):
        _ = 1 / 0
    assert memory.free == 10


def file_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_cannot_be_decoded_asks_for_nothing():
    assert decoding_bytes(b"", "a") == decoding_bytes(b"no image", "a") == 0
    large = file_of(Image.new("L", (400, 400)), "PNG")
    assert decoding_bytes(large, "a", max_pixels=400) == 0
    assert decoding_bytes(large, "a") == 400 * 400 * 9


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "P", "L", "CMYK", "RGB"])
def test_rows_converted_a_few_at_a_time_are_those_converted_at_once(mode):
    """Through strips of 256 rows and through one: the same pixels."""
    rng = np.random.default_rng(0)
    if mode == "I;16":
        whole = Image.fromarray(rng.integers(0, 65536, (700, 20), np.uint16))
    else:
        whole = Image.fromarray(rng.integers(0, 256, (700, 20, 4), np.uint8), "RGBA")
        whole = whole if mode == "RGBA" else whole.convert("RGB").convert(mode) if mode != "LA" else whole.convert("LA")
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    found = np.asarray(decode_image(file_of(whole, kind), "a"))
    parts = [np.asarray(decode_image(file_of(whole.crop((0, top, 20, top + 100)), kind), "a"))
             for top in range(0, 700, 100)]  # fmt: skip
    np.testing.assert_array_equal(found, np.concatenate(parts))
