"""What the benchmarks share: rows in a JSON file with the machine's facts, written after every row."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foveate.files import write_text
from foveate.hardware.device import device_facts

RESULTS = Path(__file__).parent / "results"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def data_folder() -> Path:
    where = os.environ.get("FOVEATE_DATA")
    if not where:
        raise SystemExit("FOVEATE_DATA must name the folder with the photographs and weights")
    return Path(where)


class Sheet:
    """Rows of one benchmark, keyed, so that an interrupted run goes on where it stopped (`fresh` starts anew)."""

    def __init__(self, name: str, *, fresh: bool = False, **about: Any) -> None:
        self.path = RESULTS / f"{name}.json"
        self.value: dict[str, Any] = {"about": about, "machine": device_facts(), "rows": {}}
        if self.path.exists() and not fresh:
            self.value["rows"] = json.loads(self.path.read_text())["rows"]

    def row(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if key not in self.value["rows"]:
            self.value["rows"][key] = measure()
            write_text(self.path, json.dumps(self.value, indent=1, default=str) + "\n")
        say(f"{key}: {json.dumps(self.value['rows'][key])[:300]}")
        return self.value["rows"][key]
