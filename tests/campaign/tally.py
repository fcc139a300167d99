"""How many trials there were, how many went as they should, and what was lost; docs/reliability.md is made of it."""

import fcntl
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from foveate.files import write_text

SEED = int(os.environ.get("FOVEATE_CAMPAIGN_SEED", "20261128"))
WHOLE = "FOVEATE_CAMPAIGN"  # names the file for the results; only then the numbers are the whole ones


def trials(number: int) -> int:
    return number if os.environ.get(WHOLE) else max(2, number // 20)


def dice(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")


@dataclass
class Tally:
    name: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    facts: dict[str, float | int | str] = field(default_factory=dict)

    def count(self, fault: str | None = None) -> None:
        self.tried += 1
        if fault is not None:
            self.lost.append(fault[:2000])


@contextmanager
def tally(name: str) -> Iterator[Tally]:
    """Counts; at the end the row is written where a file for it is named, and anything lost fails the test."""
    found, began = Tally(name), time.monotonic()
    print(f"{name}: seed {SEED}")
    yield found
    assert found.tried
    row = {
        "trials": found.tried, "lost": len(found.lost), "seconds": round(time.monotonic() - began, 1), "seed": SEED,
        **found.facts,
    }  # fmt: skip
    print(f"{name}: {row}")
    if path := os.environ.get(WHOLE):
        write_row(Path(path), name, row)
    assert not found.lost, f"{len(found.lost)} of {found.tried}: " + "\n".join(found.lost[:5])


def write_row(path: Path, name: str, row: dict[str, object]) -> None:
    from foveate.hardware.device import device_facts

    with (Path(tempfile.gettempdir()) / "foveate-campaign.lock").open("a") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = json.loads(path.read_text())["rows"] if path.exists() else {}
        value = {"machine": device_facts(), "rows": dict(sorted((rows | {name: row}).items()))}
        write_text(path, json.dumps(value, indent=1, default=str) + "\n")
