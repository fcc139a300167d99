"""Damage: of bytes as disks and networks do it, of JSON as somebody does who means harm."""

import copy
import random as dice_of
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e308, 1e-300, float("nan"), float("inf"), 0.5,
    "", " ", "../../etc/passwd", "/etc/passwd", "x" * 100_000, "\x00", "\ud800", "\x1b[31m", "__import__('os')", "%n",
    [], {}, [[]], [None], [0] * 100_000, {"a": {}}, {"__class__": "x"}, [[[[[[[[[[]]]]]]]]]], "1e999", "NaN", "tome",
    "openvino", "eager", "int8", "cuda:99",
)  # fmt: skip


def mutated_bytes(data: bytes, random: dice_of.Random) -> tuple[bytes, str]:
    found = bytearray(data)
    kind = random.choice(["flip", "flips", "cut", "zero", "insert", "repeat", "swap", "empty", "head", "tail"])
    at = random.randrange(max(1, len(found)))
    size = random.choice([1, 2, 8, 64, 1024])
    if kind == "flip" and found:
        found[at] ^= 1 << random.randrange(8)
    elif kind == "flips" and found:
        for _ in range(random.choice([4, 32, 256])):
            found[random.randrange(len(found))] = random.randrange(256)
    elif kind == "cut":
        del found[at:]
    elif kind == "zero":
        found[at : at + size] = bytes(len(found[at : at + size]))
    elif kind == "insert":
        found[at:at] = random.randbytes(size)
    elif kind == "repeat":
        found[at:at] = found[at : at + size] * random.choice([1, 3, 100])
    elif kind == "swap":
        other = random.randrange(max(1, len(found)))
        a, b = found[at : at + size], found[other : other + size]
        found[at : at + len(b)], found[other : other + len(a)] = b, a
    elif kind == "empty":
        found.clear()
    elif kind == "head" and found:  # where formats say how large they are
        for _ in range(random.choice([1, 2, 4])):
            found[random.randrange(min(len(found), 64))] = random.choice([0, 1, 127, 128, 255, random.randrange(256)])
    elif kind == "tail":
        del found[-size:]
    return bytes(found), f"{kind} at {at}"


def mutated_json(value: Any, random: dice_of.Random) -> tuple[Any, str]:
    """One place of it replaced, removed, doubled, added or nested."""
    found = copy.deepcopy(value)
    places = list(_places(found))
    if not places:
        return random.choice(HOSTILE), "all of it"
    holder, key, shown = random.choice(places)
    kind = random.choice(["replace", "replace", "replace", "remove", "add", "nest", "number", "repeat"])
    if kind == "remove":
        del holder[key]
    elif kind == "add":
        if isinstance(holder, dict):
            holder[random.choice(["extra", "__proto__", "file", "checkpoint_path", "pretrained", "cache_dir"])] = (
                random.choice(HOSTILE)
            )
        else:
            holder.insert(key, random.choice(HOSTILE))
    elif kind == "nest":
        holder[key] = [holder[key]]
    elif kind == "number" and type(holder[key]) in (int, float):
        holder[key] *= random.choice([-1, 0, 2, 10, 1e3, 10**6, 10**12, 0.5, 1e-9])
    elif kind == "repeat" and isinstance(holder, list):
        holder[key:key] = [copy.deepcopy(holder[key])] * random.choice([1, 10, 1000])
    else:
        holder[key] = copy.deepcopy(random.choice(HOSTILE))
    return found, f"{kind} {shown}"


def _places(value: Any, shown: str = "") -> Any:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            at = f"{shown}.{key}"
            yield value, key, at
            yield from _places(value[key], at)
