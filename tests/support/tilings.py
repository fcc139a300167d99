"""Pictures' tokens of every family, of any size that it takes."""

from hypothesis import reject
from hypothesis import strategies as st

from foveate.budgets import sizes
from foveate.budgets.tiling import Tiling, single
from foveate.errors import InputError

PINPOINTS = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]  # LLaVA-NeXT's


def tilings() -> st.SearchStrategy[Tiling]:
    @st.composite
    def draw(drawn: st.DrawFn) -> Tiling:
        size = drawn(st.tuples(st.integers(1, 2000), st.integers(1, 2000)))
        kind = drawn(st.sampled_from(["next", "small", "onevision", "internvl", "qwen", "single"]))
        try:
            return _tiling(kind, size)
        except InputError:  # too long for this model
            reject()

    return draw()


def _tiling(kind: str, size: tuple[int, int]) -> Tiling:
    if kind == "next":
        return sizes.anyres(size, PINPOINTS)
    if kind == "small":
        return sizes.anyres(size, [(8, 16), (16, 8), (16, 16), (24, 8)], tile=8, grid=4)
    if kind == "onevision":
        points = [(8 * r, 8 * c) for r in range(1, 7) for c in range(1, 7)]
        return sizes.anyres(size, points, tile=8, grid=3, max_tiles=4)
    if kind == "internvl":
        return sizes.squeezed(size, tile=28, grid=2)
    if kind == "qwen":
        return sizes.dynamic(size, min_pixels=28 * 28, max_pixels=28 * 28 * 60)
    return single(3, 5, newline=True)
