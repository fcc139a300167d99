"""Energy: counters are read as they count, over their wrap-around too, and what is modelled says so."""

import sys
from types import ModuleType
from typing import ClassVar

import pytest

from foveate.errors import InputError
from foveate.hardware.energy import RAPL, Energy, Meter, find_meters, measure, modelled


@pytest.fixture
def powercap(tmp_path):
    """Two packages, one with a zone inside it that is counted in its package already."""
    for name, uj in (("intel-rapl:0", 5_000_000), ("intel-rapl:0:0", 1), ("intel-rapl:1", 9_000_000)):
        zone = tmp_path / "sys/class/powercap" / name
        zone.mkdir(parents=True)
        (zone / "max_energy_range_uj").write_text("10000000\n")
        (zone / "energy_uj").write_text(f"{uj}\n")
    return tmp_path


def count(root, zone, uj):
    (root / "sys/class/powercap" / zone / "energy_uj").write_text(f"{uj}\n")


def test_packages_are_added_up_over_their_wrap_around(powercap):
    meter = RAPL(powercap)
    assert meter.joules() == 0 and meter.name == "RAPL, 2 packages"
    count(powercap, "intel-rapl:0", 6_000_000)
    count(powercap, "intel-rapl:0:0", 777)
    assert meter.joules() == pytest.approx(1.0)
    count(powercap, "intel-rapl:1", 500_000)  # 1 J to the end, 0.5 J from the start
    assert meter.joules() == pytest.approx(2.5)
    assert meter.joules() == pytest.approx(2.5)


def test_a_machine_without_counters_says_why(tmp_path):
    meters, reasons = find_meters("cpu", tmp_path)
    assert meters == [] and reasons == ["no RAPL: /sys/class/powercap has no package (a virtual machine hides it)"]
    with pytest.raises(InputError, match="can only be modelled"):
        measure(lambda: None, meters)
    with pytest.raises(InputError, match="'tpu' is no device; allowed: cpu, cuda or cuda:N"):
        find_meters("tpu", tmp_path)


def test_a_damaged_counter_is_told(powercap):
    count(powercap, "intel-rapl:1", "nonsense")
    meters, reasons = find_meters("cpu", powercap)
    assert meters == [] and "RAPL cannot be read" in reasons[0]


class Steady(Meter):
    """3 J a call, and 0.5 J whenever it is read."""

    name = "steady"

    def __init__(self):
        self.total = 0.0

    def work(self):
        self.total += 3.0

    def joules(self):
        self.total += 0.5
        return self.total


def test_energy_is_a_mean_over_calls_and_the_rest_is_told_apart():
    meter = Steady()
    found = measure(meter.work, [meter, Steady()], seconds=0.01)
    assert found.how == "measured" and found.source == "steady and steady" and found.calls > 1
    assert found.mj == pytest.approx(3000 + 1000 / found.calls)
    assert found.idle_mj is not None and found.idle_mj > 0


def test_the_model_is_horowitz():
    assert modelled(1e9, 0, "fp32").mj == pytest.approx(4.6)
    assert modelled(1e9, 0, "int8").mj == pytest.approx(0.23)
    assert modelled(0, 8e6, "bf16").mj == pytest.approx(1.3)
    found = modelled(1e9, 1e6, "bf16")
    assert found == Energy(found.mj, "modelled", found.source) and "modelled: Horowitz 2014" in str(found)
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        modelled(1, 1, "fp8")
    with pytest.raises(InputError, match="0 or more"):
        modelled(-1, 1, "fp32")


class FakeNvml(ModuleType):
    """NVML with two boards: the first asked for by number, the second by UUID; millijoules as they were set."""

    class NVMLError(Exception):
        pass

    millijoules: ClassVar[dict[str, int]] = {"0": 5_000, "GPU-b": 7_000}

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int):
        return self._found(str(index))

    def nvmlDeviceGetHandleByUUID(self, uuid: str):
        return self._found(uuid)

    def nvmlDeviceGetTotalEnergyConsumption(self, board: str):
        return self.millijoules[board]

    def _found(self, name: str) -> str:
        if name not in self.millijoules:
            raise self.NVMLError("Not Found")
        return name


def test_a_board_is_read_as_cuda_counts(monkeypatch, tmp_path):
    nvml = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(nvml, "millijoules", dict(nvml.millijoules), raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (meter,), reasons = find_meters("cuda", tmp_path)
    assert meter.name == "NVML, board 0" and len(reasons) == 1 and "RAPL" in reasons[0]
    nvml.millijoules["0"] += 2_500
    assert meter.joules() == pytest.approx(2.5)
    assert find_meters("cuda:1", tmp_path)[1][1] == "no NVML: Not Found"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-b")
    (meter,), _ = find_meters("cuda:1", tmp_path)
    assert meter.name == "NVML, board GPU-b" and meter.joules() == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install nvidia-ml-py" in find_meters("cuda", tmp_path)[1][1]
