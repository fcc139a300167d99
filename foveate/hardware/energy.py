"""Energy of work on this machine: read off counters where there are any, else modelled; which of both is always said.

Counters: RAPL by Linux's powercap (Intel and AMD packages), NVML (NVIDIA boards). The model: operation energies of
Horowitz, "Computing's energy problem" (ISSCC 2014), 45 nm at 0.9 V. It ranks configurations of one model and is not
what a meter would show.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from foveate.errors import InputError, one_of
from foveate.hardware.accelerator import ADDITION, PRODUCT
from foveate.hardware.device import ROOT, board
from foveate.target import Target

# pJ of a multiplication and an addition; of a 32-bit word from DRAM (1.3 to 2.6 nJ for 64 bits: the lower end).
MAC_PJ = {
    name: PRODUCT[bits] + ADDITION[bits] for name, bits in {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8}.items()
}
DRAM_PJ_PER_BYTE = 1300 / 8


@dataclass(frozen=True)
class Energy:
    """Of one call."""

    mj: float
    how: Literal["measured", "modelled"]
    source: str  # the counters, or the model
    idle_mj: float | None = None  # what the machine would have taken in that time anyway; contained in `mj`
    calls: int = 1  # that `mj` is the mean of

    def __str__(self) -> str:
        return f"{self.mj:.3g} mJ ({self.how}: {self.source})"


class Meter(ABC):
    """A counter of energy that only rises."""

    name: str

    @abstractmethod
    def joules(self) -> float:
        """Since this object was made."""


@final
class RAPL(Meter):
    """All CPU packages. The counters wrap around after minutes to hours: they are to be read more often than that."""

    def __init__(self, root: Path = ROOT) -> None:
        """
        Raises:
            InputError: where there is none, or it cannot be read, with the reason.
        """
        zones = [z for z in sorted((root / "sys/class/powercap").glob("*-rapl:*")) if z.name.count(":") == 1]
        if not zones:
            raise InputError("no RAPL: /sys/class/powercap has no package (a virtual machine hides it)")
        self.name = f"RAPL, {len(zones)} package{'s' if len(zones) > 1 else ''}"
        try:
            self._ranges = {z: int((z / "max_energy_range_uj").read_text()) for z in zones}
            self._last = {z: self._read(z) for z in zones}
        except PermissionError as e:
            raise InputError(f"RAPL cannot be read: {e.filename} is for root only") from None
        except (OSError, ValueError) as e:
            raise InputError(f"RAPL cannot be read: {e}") from None
        self._total = 0

    def joules(self) -> float:
        for zone, last in self._last.items():
            now = self._read(zone)
            self._total += now - last if now >= last else now - last + self._ranges[zone]
            self._last[zone] = now
        return self._total / 1e6

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())


@final
class NVML(Meter):
    """One NVIDIA board, since the driver was loaded (Volta or newer)."""

    def __init__(self, index: int = 0) -> None:
        """`index`: as CUDA counts.

        Raises:
            InputError: without nvidia-ml-py, a driver, or such a counter, with the reason.
        """
        try:
            import pynvml  # type: ignore[import-not-found]
        except ImportError:
            raise InputError("no NVML: pip install nvidia-ml-py") from None
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            name = board(index)
            by = pynvml.nvmlDeviceGetHandleByIndex if name.isdigit() else pynvml.nvmlDeviceGetHandleByUUID
            self._board = by(int(name) if name.isdigit() else name)
            self._first = pynvml.nvmlDeviceGetTotalEnergyConsumption(self._board)
        except pynvml.NVMLError as e:
            raise InputError(f"no NVML: {e}") from None
        self.name = f"NVML, board {name}"

    def joules(self) -> float:
        return (self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board) - self._first) / 1e3


def find_meters(device: str = Target().device, root: Path = ROOT) -> tuple[list[Meter], list[str]]:
    """The counters that see work on `device` (on a GPU host and board), and why others cannot be used."""
    where = Target.of(device=device)
    makers: list[Callable[[], Meter]] = [lambda: RAPL(root)]
    if where.kind == "cuda":
        makers.append(lambda: NVML(where.index))
    found, reasons = list[Meter](), list[str]()
    for make in makers:
        try:
            found.append(make())
        except InputError as e:
            reasons.append(str(e))
    return found, reasons


def measure(call: Callable[[], object], meters: Sequence[Meter], *, seconds: float = 3.0) -> Energy:
    """Energy of `call`, repeated for `seconds`, after as long a rest that tells what the machine takes anyway.

    Whatever else runs on the machine is counted too: it has to be quiet.

    Raises:
        InputError: without a meter.
    """
    if not meters:
        raise InputError("no counter of energy was given: what is not measured can only be modelled")
    call()
    before, began = _joules(meters), time.monotonic()
    time.sleep(seconds)
    idle_watt = (_joules(meters) - before) / (time.monotonic() - began)
    before, began, calls = _joules(meters), time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds or not calls:
        call()
        calls += 1
    spent = time.monotonic() - began
    return Energy(
        mj=(_joules(meters) - before) / calls * 1e3, how="measured", source=" and ".join(m.name for m in meters),
        idle_mj=idle_watt * spent / calls * 1e3, calls=calls,
    )  # fmt: skip


def modelled(macs: float, moved_bytes: float, precision: str) -> Energy:
    """From operation counts: `macs` multiply-accumulates in `precision`, `moved_bytes` from or to DRAM.

    What is moved between caches, controlled and leaked is not in it.

    Raises:
        InputError: for an unknown precision or a negative count.
    """
    if precision not in MAC_PJ:
        raise one_of("precision", precision, MAC_PJ)
    if macs < 0 or moved_bytes < 0:
        raise InputError(f"{macs:g} MACs and {moved_bytes:g} bytes; allowed: 0 or more")
    pj = macs * MAC_PJ[precision] + moved_bytes * DRAM_PJ_PER_BYTE
    return Energy(mj=pj / 1e9, how="modelled", source="Horowitz 2014, 45 nm: arithmetic and DRAM alone")


def _joules(meters: Iterable[Meter]) -> float:
    return sum(m.joules() for m in meters)
