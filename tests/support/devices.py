"""A device whose every time is known, and profiles made of it."""

from typing import ClassVar

import torch
from timm.models.vision_transformer import VisionTransformer

from foveate.hardware.timer import Load
from foveate.profiling import Point, profile
from foveate.target import Target

IDLE = Load(0.5, 0.0, (), (), 0.0, None)
WORKED = Load(0.5, 1.8, (), (("make (7)", 1.7),), 0.0, None)


class Device:
    """12 blocks, each a staircase; fixed, attention and reduction costs are known exactly."""

    depth, full, reference = 12, 197, 24.0

    def __init__(self, dies_after=10**9):
        self.calls, self.left = [], dies_after

    def block_ms(self, n):
        return 0.5 + n / 400 + 0.4 * (n > 128)

    def attention_ms(self, n):
        return 0.1 + n / 1000

    def reduce_ms(self, method, n):
        return {"tome": 0.05 + n * n / 1e5, "topk": 0.02}[method]

    def _point(self, part, n, m, ms):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        self.calls.append((part, n))
        whole = self.depth * self.block_ms(self.full)
        return Point(part=part, n=n, m=m, ratio=ms / whole, reference_ms=whole, rounds=5)

    def build(self, methods, counts, told):
        pass

    def blocks(self, counts):
        return [self._point("blocks", n, n, self.depth * self.block_ms(n)) for n in counts]

    def attention(self, counts):
        return [self._point("attention", n, n, self.depth * self.attention_ms(n)) for n in counts]

    def ends(self):
        return [self._point("ends", self.full, self.full, 1.5)]

    def reduce(self, methods, n):
        return [self._point(f"reduce:{m}", n, n - n // 3, self.reduce_ms(m, n)) for m in methods]


class FakeMeter(Device):
    """Stands where `RuntimeMeter` does; `made` counts them."""

    made: ClassVar[list["FakeMeter"]] = []

    def __init__(self, model, target):
        super().__init__()
        assert target.threads is not None
        self.full = 65
        self.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def vit(**kwargs):
    """A small one, its weights always the same."""
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**shape | kwargs).eval()


def profiled(model, load=IDLE, **kwargs):
    """`profile` on a machine with that load, its target named in keywords."""
    where = {name: kwargs.pop(name) for name in list(kwargs) if name in Target.model_fields}
    return profile(model, Target.of(**where), load=lambda: load, **kwargs)
