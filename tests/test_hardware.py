"""The paired timer, under noise that would fool a mean; and facts of the machine, read from made-up systems."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.hardware import Speedup, busy, default_threads, device, device_facts, fingerprint
from foveate.hardware.timer import allowance, over_allowed, percentiles, proven, samples_needed, speedup
from foveate.target import Target


def heavy(rng, n):
    """Independent, heavy-tailed: now and then a run takes ten times as long."""
    return 20 * (1 + 0.02 * np.abs(rng.standard_t(1.5, (2, n))))


def drifting(rng, n):
    """The machine warms up and wanders; both runs of a round share it, mostly."""
    common = np.exp(np.cumsum(rng.normal(0, 0.03, n)) + np.linspace(0, 0.5, n))
    return 20 * common * np.exp(rng.normal(0, 0.01, (2, n)))


def bimodal(rng, n):
    """Two clock speeds, changing in long streaks that may start between the two runs of a round."""
    flips = rng.random(2 * n) < 0.05
    slow = (np.cumsum(flips) % 2).reshape(n, 2)
    order = rng.permuted(np.tile([0, 1], (n, 1)), axis=1)  # a fresh order every round
    return 20 * (1 + 0.6 * np.take_along_axis(slow, order, axis=1)).T * np.exp(rng.normal(0, 0.005, (2, n)))


NOISES = [heavy, drifting, bimodal]


def runs_called_faster(noise, decide, runs=400, n=1024, seed=0):
    """Share of null experiments in which `decide(base, other)` says faster."""
    rng = np.random.default_rng(seed)
    return np.mean([decide(*noise(rng, n)) for _ in range(runs)])


def by_proof(base, other):
    used = 0

    def measure(n):
        nonlocal used
        used += n
        return base[used - n : used], other[used - n : used]

    return proven(measure)[0].faster


@pytest.mark.parametrize("noise", NOISES)
def test_a_null_pair_is_hardly_ever_proven_faster(noise):
    assert runs_called_faster(noise, by_proof) <= 0.01


@pytest.mark.parametrize("noise", NOISES)
def test_the_null_check_can_fail(noise):
    """The same experiments catch what people do instead: compare two means, or stop at the first lucky look."""
    assert runs_called_faster(noise, lambda a, b: a.mean() > b.mean()) > 0.2
    looks = (64, 128, 256, 512, 1024)
    assert runs_called_faster(noise, lambda a, b: any(speedup(a[:n], b[:n], 0.9).faster for n in looks)) > 0.05


def test_several_claims_widen_the_interval():
    """One plan out of four may be proven by luck four times as often: the interval pays for it."""
    base, other = NOISES[0](np.random.default_rng(3), 128)

    def once(claims):
        found, _, _ = proven(lambda n: (1.05 * base[:n], other[:n]), first=128, most=128, claims=claims)
        return found

    one, four = once(1), once(4)
    assert one.level == four.level == 0.99 and one.value == four.value
    assert four.low < one.low and one.high < four.high


@pytest.mark.parametrize("noise", NOISES)
def test_the_interval_covers_the_true_ratio(noise):
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        base, other = noise(rng, 101)
        found = speedup(1.05 * base, other, 0.9)
        covered.append(found.low <= 1.05 <= found.high)
    assert np.mean(covered) >= 0.86  # 0.9 less three standard errors of 400 runs


@pytest.mark.parametrize("noise", NOISES)
def test_a_gain_of_five_percent_is_found(noise):
    found = runs_called_faster(lambda rng, n: noise(rng, n) * [[1.05], [1.0]], by_proof, runs=50)
    assert found == 1.0


def test_a_gain_without_noise_needs_the_first_look_alone():
    asked = []

    def measure(n):
        asked.append(n)
        return np.full(n, 11.0), np.full(n, 10.0)

    found, base, other = proven(measure)
    assert asked == [64] and found.faster and found.value == pytest.approx(1.1)
    assert len(base) == len(other) == found.n == 64 and found.level == 0.99


def test_equal_times_prove_nothing():
    found = speedup(np.ones(64), np.ones(64))
    assert (found.value, found.low, found.high, found.faster) == (1, 1, 1, False)


def test_looks_grow_to_the_limit_and_no_further():
    rng, asked = np.random.default_rng(0), []

    def measure(n):
        asked.append(n)
        return rng.lognormal(0, 1, n), rng.lognormal(0, 1, n)

    found, _, _ = proven(measure, first=10, most=50)
    assert asked == [10, 10, 20, 10] and found.n == 50 and not found.faster


def test_too_few_pairs_leave_the_interval_open():
    assert speedup(np.full(7, 2.0), np.ones(7)) == Speedup(2.0, 0.0, np.inf, 0.99, 7)
    assert speedup(np.full(8, 2.0), np.ones(8)).faster


@pytest.mark.parametrize("base, other", [([1, 2], [1]), ([], []), ([1, 0], [1, 1]), ([1, np.nan], [1, 1])])
def test_samples_that_are_none(base, other):
    with pytest.raises(InputError):
        speedup(np.array(base, float), np.array(other, float))


def test_mlperf_sample_sizes():
    assert [samples_needed(p) for p in (50, 90, 95, 99)] == [11, 64, 130, 662]
    for p, n in ((50, 11), (90, 64), (99, 662)):
        assert over_allowed(n - 1, p) == 0 and over_allowed(n, p) == 1


def test_percentiles_drop_the_allowed_and_report_the_largest_of_the_rest():
    ms = np.random.default_rng(0).permutation(np.arange(1.0, 65.0))
    found = percentiles(ms)
    assert found["p90"] == 64.0 and found["p99"] is None  # t = 1: nothing is dropped
    t = over_allowed(64, 50)
    assert found["p50"] == np.sort(ms)[: -(t - 1)].max() and 32.5 < found["p50"] < 48
    assert percentiles(ms[:10]) == {"p50": None, "p90": None, "p99": None}


def test_percentiles_are_upper_bounds_as_often_as_promised():
    rng = np.random.default_rng(2)
    over = [percentiles(rng.exponential(size=100))["p90"] >= -np.log(0.1) for _ in range(1000)]
    assert np.mean(over) >= 0.985


def spin(stop):
    while not stop.is_set():
        pass


def test_a_spinning_pool_is_noticed():
    """In this process, and in a child, while nobody asked for anything."""
    stop = threading.Event()
    thread = threading.Thread(target=spin, args=(stop,), daemon=True)
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    thread.start()
    try:
        time.sleep(0.3)
        found = busy(0.4, allow=0.05)
    finally:
        stop.set()
        thread.join()
        child.kill()
        child.wait()
    pids = {int(name.rsplit("(")[-1][:-1]) for name, _ in found.spinning}
    assert pids == {os.getpid(), child.pid} and not found.quiet
    assert sum("spins" in note for note in found.notes) == 2


def test_others_may_use_cores_beside_a_gpu_alone():
    assert allowance(Target(threads=1), cores=16) == allowance(Target(), cores=4) == 0.15
    assert allowance(Target(device="cuda"), cores=16) == 3.75 and allowance(Target(device="cuda"), cores=1) == 0.15


def test_an_idle_process_spins_not():
    # Once of four times: a machine under load may wake it up for something, a pool that spins does so always.
    code = "import sys; from foveate.hardware import busy; sys.exit(all(busy(0.3).spinning for _ in range(4)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_facts_are_json_and_name_the_hardware():
    facts = device_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["versions"]["torch"] and facts["usable_cpus"] >= 1 <= default_threads() <= facts["usable_cpus"]
    same, other = fingerprint({**facts, "python": "0", "versions": {}}), fingerprint({**facts, "cpu": "abacus"})
    assert fingerprint(facts) == same != other


SMI = """#!/bin/sh
case "$*" in
  *"--id=1"*) echo "Second GPU" ;;
  *"--id=GPU-b"*) echo "Named GPU" ;;
  *"--id="*) echo "First GPU" ;;
  *) printf 'First GPU, 80 MiB, 550\\nSecond GPU, 40 MiB, 550\\n' ;;
esac
"""


def test_gpus_are_told_by_the_drivers_tool(monkeypatch, tmp_path):
    """A key for a GPU holds that board's name, whichever number it has today."""
    facts = device_facts()
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert device_facts()["gpu"] == "First GPU, 80 MiB, 550; Second GPU, 40 MiB, 550"
    assert (device.gpu_name(0), device.gpu_name(1)) == ("First GPU", "Second GPU")
    first, second = fingerprint(facts, "cuda"), fingerprint(facts, "cuda:1")
    assert len({first, second, fingerprint(facts)}) == 3 and first == fingerprint(facts, "cuda:0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, GPU-b")
    assert fingerprint(facts, "cuda:0") == second and device.gpu_name(1) == "Named GPU" and device.board(2) == "2"
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert device.gpu_name(0) is None and device_facts()["gpu"] is None


def test_facts_do_without_a_proc_filesystem(monkeypatch, tmp_path):
    assert device.quota_cpus(tmp_path) is device.memory_limit_bytes(tmp_path) is device.governor(tmp_path) is None
    assert device._cpuinfo(tmp_path) == {} and device._physical({0, 1}, tmp_path) == {("0", "cpu0"), ("0", "cpu1")}


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "line, files, cpus",
    [
        ("0::/", {"cpu.max": "max 100000"}, None),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/a/b", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/../elsewhere", {"cpu.max": "300000 100000"}, 3.0),  # a group that only the host sees
        ("4:cpu:/x", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("4:cpu:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_quota_of_a_control_group(tmp_path, line, files, cpus):
    write(tmp_path / "proc/self/cgroup", line + "\n")
    for name, text in files.items():
        write(tmp_path / "sys/fs/cgroup" / name, text)
    assert device.quota_cpus(tmp_path) == cpus


@pytest.mark.parametrize("cores, quota, threads", [(8, None, 8), (8, 3.9, 3), (2, 16.0, 2), (4, 0.5, 1)])
def test_threads_stay_within_cores_and_quota(monkeypatch, cores, quota, threads):
    monkeypatch.setattr(device, "_physical", lambda cpus: {("0", str(n)) for n in range(cores)})
    monkeypatch.setattr(device, "quota_cpus", lambda: quota)
    assert default_threads() == threads


def test_hyper_threads_count_once(tmp_path):
    for cpu, core in enumerate("0101"):
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", core)
        write(tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", "0")
    assert len(device._physical({0, 1, 2, 3}, tmp_path)) == 2


def test_peaks_say_what_was_measured():
    from foveate.hardware.peaks import measure_peaks

    found = measure_peaks(threads=1, seconds=0.01, size=64, copy_mib=1)
    assert [(r.name, r.unit) for r in found] == [
        ("peak_matmul_fp32", "GFLOP/s"),
        ("peak_matmul_bf16", "GFLOP/s"),
        ("peak_copy", "GB/s"),
    ]
    assert all(r.value > 0 and r.n >= 3 and r.tags["what"] and r.tags["device"] == "cpu" for r in found)


def test_every_peak_has_a_label_of_its_own():
    from foveate.commands.listing import labelled
    from foveate.hardware.peaks import measure_peaks

    told = []
    found = measure_peaks(threads=1, seconds=0.01, size=64, copy_mib=1, progress=lambda *a: told.append(a))
    assert list(labelled(found)) == [
        "measured fp32 64 x 64 matrix product on cpu",
        "measured bf16 64 x 64 matrix product on cpu",
        "measured copy of 1 MiB, bytes read plus bytes written on cpu",
    ]
    assert [share for share, _ in told] == [0, 1 / 3, 2 / 3] and "bf16" in told[1][1]


def test_a_product_that_would_take_a_minute_is_measured_smaller():
    from foveate.hardware.peaks import _bearable

    took = {384: 0.02, 1536: 1.3}
    sleeper = lambda n: lambda: time.sleep(took[n])
    assert _bearable(sleeper, 1536, 1.0) == 1536  # 64 times 20 ms
    assert _bearable(sleeper, 1536, 0.1) == 384


def test_importing_the_timer_imports_no_torch():
    code = "import sys, foveate.hardware.timer, foveate.hardware.peaks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_few_pairs_prove_nothing_and_go_on():
    """Eight pairs are too few for an interval: there is none yet, and more are measured."""
    asked = []

    def measure(n):
        asked.append(n)
        return np.full(n, 2.0), np.full(n, 1.0)

    found, base, _ = proven(measure, first=8, most=64)
    assert asked[0] == 8 and len(base) > 8 and found.faster
