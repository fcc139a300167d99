"""The settings that papers print figures for, on any model: tokens and arithmetic, without measuring anything.

ToMe removes r tokens a block (or linearly fewer, "13, -1"); PiToMe keeps a share of the patches in every block; EViT
keeps a share of them in the blocks at 1/4, 1/2 and 3/4 of the depth, with or without its fused token; PPT removes r in
each of these; POMT removes all in one.
"""

from collections.abc import Callable
from typing import Any

from foveate.adapters import Facts
from foveate.planners.pomt import cut_block
from foveate.schedule import Schedule

Setting = Callable[[Facts], Schedule]


def _tome(r: int, inflect: float = 0.0) -> Setting:
    return lambda f: Schedule.tome(f.tokens, f.depth, r, inflect, f.prefix)


def _evit(share: float, fused: bool = True) -> Setting:
    return lambda f: Schedule.keep_ratio(f.tokens, f.depth, share, f.quarters, f.prefix, fused)


def _pitome(share: float) -> Setting:
    return lambda f: Schedule.shrink(f.tokens, f.depth, share, f.prefix)


def _pomt(r: int) -> Setting:
    return lambda f: Schedule.pomt(f.tokens, f.depth, r, cut_block(f.depth), f.prefix)


SETTINGS: dict[str, Setting] = {
    **{f"tome r={r}": _tome(r) for r in (5, 7, 8, 13, 16)},
    "tome r=13, -1": _tome(13, -1.0),
    **{f"evit {share:g}": _evit(share) for share in (0.9, 0.8, 0.7, 0.6, 0.5)},
    "evit 0.7, not fused": _evit(0.7, fused=False),
    "ppt r=50": lambda f: Schedule.stages(f.tokens, f.depth, 50, f.quarters, f.prefix),
    **{f"pitome {share:g}": _pitome(share) for share in (0.925, 0.9)},
    **{f"pomt r={r}": _pomt(r) for r in (56, 69)},
}


def published(facts: Facts) -> list[dict[str, Any]]:
    """A row a setting: tokens after every block, GMACs (reduction itself not counted) and their share of the dense."""
    schedules = {name: setting(facts) for name, setting in SETTINGS.items()}
    return [
        {"setting": name, "tokens": list(s.after), "gmacs": facts.macs(s) / 1e9, "share": facts.macs_ratio(s)}
        for name, s in schedules.items()
    ]
