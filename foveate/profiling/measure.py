"""Measuring a profile: what to measure, in which order, and what of it is known already."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from foveate.errors import InputError, NotAvailable, one_of
from foveate.hardware.timer import allowance, busy
from foveate.profiling.curve import Point, Profile, tabulate
from foveate.profiling.explore import coarse_grid, explore
from foveate.profiling.quiet import Look, await_quiet, far, reference_of, told
from foveate.profiling.store import SCHEMA, Row, Store
from foveate.target import Target

if TYPE_CHECKING:
    from torch import nn

    from foveate.adapters import Facts

Progress = Callable[[float, float, str], None]
METHODS_BY_DEFAULT = ("foveal", "tome", "topk")  # dear and cheap; any other costs the planner as much as the dearest
MOST_POINTS = 96
SURE_AFTER = 3  # points, from which on the median reference is believed
REDUCE = "reduce:"
REFINING = 12  # points beyond the coarse grid that progress reckons with


class Meter(Protocol):
    """What measures: `meter.RuntimeMeter`. It builds what it lacks; `build` only does so beforehand. Every other method
    returns one point a count or method, in order."""

    def build(self, methods: Sequence[str], counts: Sequence[int], told: Callable[[str], None]) -> None: ...
    def blocks(self, counts: Sequence[int]) -> list[Point]: ...
    def attention(self, counts: Sequence[int]) -> list[Point]: ...
    def ends(self) -> list[Point]: ...
    def reduce(self, methods: Sequence[str], n: int) -> list[Point]: ...


def profile(
    model: "nn.Module",
    target: Target,
    *,
    methods: Sequence[str] | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    seconds: float = 45,
    patience_s: float = 10,
    load: Look | None = None,
) -> Profile:
    """Measure latency against token count, and what embedding, head and reductions cost, as they will be deployed.

    A profile measured before with the same structure, target, hardware and versions is read from the cache; one that
    was broken off is gone on with, and only methods it lacks are measured. What was measured while others worked is
    marked so, and measured again when it is asked for and nothing disturbs.

    Args:
        model: any supported host, on the CPU.
        target: where it will run; threads None: one a physical core that may be used.
        methods: whose cost to measure; default: some cheap and some dear ones that fit the model.
        fresh: forget what the cache has and measure again.
        progress: called as progress(done, total, text); the total is an estimate and may grow.
        seconds: when to stop refining the curve. The coarse curve and the other parts are measured whatever they take.
        patience_s: how long to wait for others' work to end; a quarter of `seconds` at most.
        load: looks at what else runs; by default `foveate.hardware.busy`, for half a second.

    Raises:
        InputError: unknown names or numbers out of range; NotAvailable: the target cannot be had here.
    """
    from foveate.adapters import describe
    from foveate.hardware.device import default_threads, device_facts, fingerprint
    from foveate.profiling.meter import RuntimeMeter

    facts = describe(model)
    target = target.model_copy(update={"threads": target.threads or default_threads()})
    chosen = _check(facts, target, methods, seconds)
    device, look = device_facts(), load or (lambda: busy(allow=allowance(target)))
    where = [target.model_dump(), fingerprint(device, target.device), device["versions"]]
    key = key_of(model, facts, where)
    with Store() as store:
        if fresh:
            store.clear(key)
        elif found := _stored(store, key, chosen, seconds, look):
            return found
        say = (lambda text: None) if progress is None else (lambda text: progress(0, 1, text))
        noise = await_quiet(look, min(patience_s, seconds / 4), say)
        end = time.monotonic() + seconds
        with RuntimeMeter(model, target) as meter:
            points, complete = run(
                meter,
                store,
                key,
                low=lowest(facts.tokens, facts.prefix),
                high=facts.tokens,
                prefix=facts.prefix,
                methods=chosen,
                more=lambda: time.monotonic() < end,
                quiet=lambda: look().quiet,
                doubted=noise is None,
                at_once=copies(model),
                progress=progress,
            )
        made = Profile(
            family=facts.family,
            tokens=facts.tokens,
            depth=facts.depth,
            prefix=facts.prefix,
            target=target,
            reference_ms=reference_of(points),
            table=tabulate(points, facts.depth),
            points=points,
            complete=complete,
            seconds=seconds,
            disturbed=told(noise, points),
            origin=device,
        )
        store.finish(key, made.model_dump_json())
    return made


def lowest(tokens: int, prefix: int) -> int:
    """Where the curve starts: an eighth of all tokens. Below, it goes on as a straight line."""
    return min(tokens, max(prefix + 2, tokens // 8))


def copies(model: "nn.Module", limit_bytes: float = 3e8) -> int:
    """How many counts to have loaded at once, beside the reference: three, or as many as memory should bear."""
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return int(min(3, max(1, limit_bytes // max(1, size))))


def run(
    meter: Meter,
    store: Store,
    key: str,
    *,
    low: int,
    high: int,
    prefix: int,
    methods: Sequence[str],
    more: Callable[[], bool],
    quiet: Callable[[], bool] = lambda: False,
    doubted: bool = True,
    at_once: int = 3,
    progress: Progress | None = None,
) -> tuple[list[Point], bool]:
    """Measure what `store` does not have yet, each group of at most `at_once` points stored at once.

    Points in whose rounds the reference was far from what it mostly is are measured again at once, and those that were
    disturbed at the end, if it is `quiet()` by then. `doubted`: stored points that were disturbed are not taken.

    Returns:
        All points of `key`, and whether the curve is settled (or `more()` said no before).
    """
    stored = [_point(row) for row in store.points(key)]
    known = {(p.part, p.n, p.m): p for p in stored if not (doubted and p.disturbed)}
    grid = coarse_grid(low, high)
    halves = [prefix + max(2, (high - prefix) * share // 5) for share in (4, 2)]
    spread = [n for n in grid if n in (low, high) or n % 64 == 0]
    total = 1 + len(spread) + len(halves) * len(methods) + len(grid) + REFINING

    def tell(text: str) -> None:
        if progress is not None:
            progress(len(known), max(total, len(known) + 1), text)

    def keep(measure: Callable[[], Sequence[Point]], text: str) -> Sequence[Point]:
        tell(text)
        points = measure()
        if len(known) >= SURE_AFTER and far(points[0], reference_of(known.values())):  # a group has one reference
            tell(f"{text}, again: the reference took {points[0].reference_ms:.3g} ms")
            points = measure()
            if far(points[0], reference_of(known.values())):
                points = [p.model_copy(update={"disturbed": True}) for p in points]
        store.add(key, [_row(p) for p in points])
        known.update({(p.part, p.n, p.m): p for p in points})
        return points

    def measure(part: str, group: Sequence[int], methods: Sequence[str] = ()) -> Sequence[Point]:
        if part == "ends":
            return keep(meter.ends, "embedding and head")
        if part == "attention":
            return keep(lambda: meter.attention(group), f"attention halves on {_join(group)} tokens")
        if part == "blocks":
            return keep(lambda: meter.blocks(group), f"all blocks on {_join(group)} tokens")
        return keep(lambda: meter.reduce(methods, group[0]), f"{', '.join(methods)} on {group[0]} tokens")

    def blocks(counts: Sequence[int]) -> list[float]:
        coarse = any(n in grid for n in counts)
        return [p.ratio for p in measure("blocks", counts)] if coarse or more() else []

    def curve() -> bool:
        ratios = {n: p.ratio for (part, n, _), p in known.items() if part == "blocks"}
        return explore(blocks, low, high, MOST_POINTS, known=ratios, at_once=at_once).complete

    if ("ends", high, high) not in known:
        meter.build(methods, halves, tell)
        measure("ends", [high])
    for group in _groups([n for n in spread if ("attention", n, n) not in known], at_once):
        measure("attention", group)
    for n in halves:
        done = {part for part, at, _ in known if at == n}
        if lacking := [m for m in methods if f"{REDUCE}{m}" not in done]:
            measure("reduce", [n], lacking)
    complete = curve()
    middle = reference_of(known.values())
    bad = [p for p in known.values() if far(p, middle)]
    if (disturbed := [p for p in known.values() if p.disturbed]) and quiet():
        bad += [p for p in disturbed if p not in bad]
    for part in ("ends", "attention", "blocks"):
        for group in _groups(sorted(p.n for p in bad if p.part == part), at_once):
            measure(part, group)
    for n in sorted({p.n for p in bad if p.part.startswith(REDUCE)}):
        measure("reduce", [n], [p.part.removeprefix(REDUCE) for p in bad if p.part.startswith(REDUCE) and p.n == n])
    if bad:
        complete = curve()
    if progress is not None:
        progress(len(known), len(known), "done")
    return [known[at] for at in sorted(known)], complete


def key_of(model: "nn.Module", facts: "Facts", settings: Sequence[object]) -> str:
    """Hash of everything latency depends on. Weights are not in it; shapes and the names of all modules are."""
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
    text = json.dumps([SCHEMA, asdict(facts), structure, shapes, list(settings)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(facts: "Facts", target: Target, methods: Sequence[str] | None, seconds: float) -> tuple[str, ...]:
    """Raise for what cannot be measured; returns the methods."""
    from foveate.methods import METHODS
    from foveate.runtimes import why_not

    if (reason := why_not(target)) is not None:
        raise NotAvailable(f"{target} cannot be had here: {reason}")
    if not seconds > 0:
        raise InputError(f"seconds is {seconds}; allowed: above 0")
    if facts.turns and methods is None:
        return ()  # its own decisions have their places, and are timed with the plans that are built
    blind = not facts.has_class_token
    if methods is None:
        return tuple(m for m in METHODS_BY_DEFAULT if m in METHODS and not (blind and "class_row" in METHODS[m].needs))
    for name in methods:
        if name not in METHODS:
            raise one_of("method", name, METHODS)
        if blind and "class_row" in METHODS[name].needs:
            raise InputError(f"method {name!r} scores by the class token, which this {facts.family} has not")
    return tuple(dict.fromkeys(methods))


def _stored(store: Store, key: str, methods: Sequence[str], seconds: float, look: Look) -> Profile | None:
    """The finished profile of `key`, if it has the methods and neither more time nor today's quiet would better it."""
    if (text := store.finished(key)) is None:
        return None
    try:
        found = Profile.model_validate_json(text)
    except ValidationError:
        return None
    enough = found.complete or seconds <= found.seconds
    if not enough or not set(methods) <= found.table.reduce.keys():
        return None
    return None if found.disturbed is not None and look().quiet else found


def _row(p: Point) -> Row:
    return p.part, p.n, p.m, p.ratio, p.reference_ms, p.rounds, int(p.disturbed)


def _point(row: Row) -> Point:
    return Point(**dict(zip(Point.model_fields, row, strict=True)))  # type: ignore[arg-type]


def _groups(counts: Sequence[int], size: int) -> list[Sequence[int]]:
    return [counts[i : i + size] for i in range(0, len(counts), size)]


def _join(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))
