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
from foveate.profiling.curve import Point, Profile, reference_of, tabulate
from foveate.profiling.explore import coarse_grid, explore
from foveate.profiling.store import SCHEMA, Row, Store

if TYPE_CHECKING:
    from torch import nn

    from foveate.adapters import Facts

Progress = Callable[[float, float, str], None]
METHODS_BY_DEFAULT = ("foveal", "tome", "topk")  # dear and cheap; any other costs the planner as much as the dearest
MOST_POINTS = 96
REFINING = 12  # points beyond the coarse grid that progress reckons with


class Meter(Protocol):
    """What measures: `meter.RuntimeMeter`. Every method returns one point a count or method, in order."""

    def blocks(self, counts: Sequence[int]) -> list[Point]: ...
    def attention(self, counts: Sequence[int]) -> list[Point]: ...
    def ends(self) -> list[Point]: ...
    def reduce(self, methods: Sequence[str], n: int) -> list[Point]: ...


def profile(
    model: "nn.Module",
    *,
    runtime: str,
    precision: str = "fp32",
    batch: int = 1,
    threads: int | None = None,
    methods: Sequence[str] | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    seconds: float = 45,
) -> Profile:
    """Measure latency against token count, and what embedding, head and reductions cost, as they will be deployed.

    A profile measured before with the same structure, runtime, settings, hardware and versions is read from the cache;
    one that was broken off is gone on with, and only methods it lacks are measured.

    Args:
        model: any supported host, on the CPU.
        threads: default: one a physical core that may be used.
        methods: whose cost to measure; default: some cheap and some dear ones that fit the model.
        fresh: forget what the cache has and measure again.
        progress: called as progress(done, total, text); the total is an estimate and may grow.
        seconds: when to stop refining the curve. The coarse curve and the other parts are measured whatever they take.

    Raises:
        InputError: unknown names or numbers out of range; NotAvailable: the runtime cannot be used here.
    """
    from foveate.adapters import describe
    from foveate.hardware.device import default_threads, device_facts, fingerprint
    from foveate.profiling.meter import RuntimeMeter

    facts = describe(model)
    threads = default_threads() if threads is None else threads
    chosen = _check(facts, runtime, precision, batch, threads, methods, seconds)
    device = device_facts()
    key = key_of(model, facts, [runtime, precision, batch, threads, fingerprint(device), device["versions"]])
    with Store() as store:
        if fresh:
            store.clear(key)
        elif (found := _stored(store, key, chosen, seconds)) is not None:
            return found
        end = time.monotonic() + seconds
        with RuntimeMeter(model, runtime, precision, batch, threads) as meter:
            points, complete = run(
                meter,
                store,
                key,
                low=lowest(facts.tokens, facts.prefix),
                high=facts.tokens,
                prefix=facts.prefix,
                methods=chosen,
                more=lambda: time.monotonic() < end,
                at_once=copies(model),
                progress=progress,
            )
        made = Profile(
            family=facts.family,
            tokens=facts.tokens,
            depth=facts.depth,
            prefix=facts.prefix,
            runtime=runtime,
            precision=precision,
            batch=batch,
            threads=threads,
            reference_ms=reference_of(points),
            table=tabulate(points, facts.depth),
            points=points,
            complete=complete,
            seconds=seconds,
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
    at_once: int = 3,
    progress: Progress | None = None,
) -> tuple[list[Point], bool]:
    """Measure what `store` does not have yet, each group of at most `at_once` points stored at once.

    Returns:
        All points of `key`, and whether the curve is settled (or `more()` said no before).
    """
    known = {(p.part, p.n, p.m): p for p in (_point(row) for row in store.points(key))}
    grid = coarse_grid(low, high)
    halves = [prefix + max(2, (high - prefix) * share // 5) for share in (4, 2)]
    spread = [n for n in grid if n in (low, high) or n % 64 == 0]
    total = 1 + len(spread) + len(halves) * len(methods) + len(grid) + REFINING

    def tell(text: str) -> None:
        if progress is not None:
            progress(len(known), max(total, len(known) + 1), text)

    def keep(points: Sequence[Point]) -> None:
        store.add(key, [(p.part, p.n, p.m, p.ratio, p.reference_ms, p.rounds) for p in points])
        known.update({(p.part, p.n, p.m): p for p in points})

    if ("ends", high, high) not in known:
        tell("embedding and head")
        keep(meter.ends())
    for group in _groups([n for n in spread if ("attention", n, n) not in known], at_once):
        tell(f"attention halves on {_join(group)} tokens")
        keep(meter.attention(group))
    for n in halves:
        done = {part for part, at, _ in known if at == n}
        if lacking := [m for m in methods if f"reduce:{m}" not in done]:
            tell(f"{', '.join(lacking)} on {n} tokens")
            keep(meter.reduce(lacking, n))

    def blocks(counts: Sequence[int]) -> list[float]:
        coarse = any(n in grid for n in counts)
        if not coarse and not more():
            return []
        tell(f"all blocks on {_join(counts)} tokens")
        points = meter.blocks(counts)
        keep(points)
        return [p.ratio for p in points]

    ratios = {n: p.ratio for (part, n, _), p in known.items() if part == "blocks"}
    found = explore(blocks, low, high, MOST_POINTS, known=ratios, at_once=at_once)
    if progress is not None:
        progress(len(known), len(known), "done")
    return [known[at] for at in sorted(known)], found.complete


def key_of(model: "nn.Module", facts: "Facts", settings: Sequence[object]) -> str:
    """Hash of everything latency depends on. Weights are not in it; shapes and the names of all modules are."""
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    shapes = [(name, tuple(p.shape), str(p.dtype)) for name, p in model.named_parameters()]
    text = json.dumps([SCHEMA, asdict(facts), structure, shapes, list(settings)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _check(
    facts: "Facts",
    runtime: str,
    precision: str,
    batch: int,
    threads: int,
    methods: Sequence[str] | None,
    seconds: float,
) -> tuple[str, ...]:
    """Raise for what cannot be measured; returns the methods."""
    from foveate.methods import METHODS
    from foveate.runtimes import RUNTIMES

    if (reason := RUNTIMES[runtime].why_not(precision)) is not None:
        raise NotAvailable(f"{runtime} in {precision} cannot be used here: {reason}")
    for name, value in (("batch", batch), ("threads", threads)):
        if value < 1:
            raise InputError(f"{name} is {value}; allowed: 1 or more")
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


def _stored(store: Store, key: str, methods: Sequence[str], seconds: float) -> Profile | None:
    """The finished profile of `key`, if it has the methods and more time would not have made it better."""
    if (text := store.finished(key)) is None:
        return None
    try:
        found = Profile.model_validate_json(text)
    except ValidationError:
        return None
    enough = found.complete or seconds <= found.seconds
    return found if enough and set(methods) <= found.table.reduce.keys() else None


def _point(row: Row) -> Point:
    part, n, m, ratio, reference_ms, rounds = row
    return Point(part=part, n=n, m=m, ratio=ratio, reference_ms=reference_ms, rounds=rounds)


def _groups(counts: Sequence[int], size: int) -> list[Sequence[int]]:
    return [counts[i : i + size] for i in range(0, len(counts), size)]


def _join(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))
