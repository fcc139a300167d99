"""What a run leaves to look at: a CSV, TensorBoard's events where it is installed, and a line now and then."""

import csv
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from foveate.files import replacing
from foveate.staging import spelled

FIELDS = ("step", "epoch", "name", "value")


class Record:
    """Appends to `log.csv`; on resuming, first cuts off what came after the checkpoint."""

    def __init__(self, out: Path, step: int) -> None:
        path, kept = out / "log.csv", list[Any]()
        if step and path.exists():
            with path.open(newline="") as file:
                whole: list[Any] = [row for row in csv.DictReader(file) if (row.get("step") or "x").isdigit()]
            kept = [row for row in whole if int(row["step"]) <= step]
        with replacing(path) as part, part.open("w", newline="") as file:
            rows = csv.DictWriter(file, FIELDS, extrasaction="ignore")
            rows.writeheader()
            rows.writerows(kept)
        self._file = path.open("a", newline="", buffering=1)
        self._rows = csv.DictWriter(self._file, FIELDS)
        self._open = ExitStack()
        self._board = _board(self._open.enter_context(spelled(out)), step)

    def add(self, step: int, epoch: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._rows.writerow({"step": step, "epoch": epoch, "name": name, "value": repr(float(value))})
            if self._board is not None:
                self._board.add_scalar(name.replace(" ", "/"), value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        self._open.close()


def _board(out: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out), purge_step=step or None)
