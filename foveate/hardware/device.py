"""What this machine is. Everything is read from the system's own files; what cannot be read is None, never a guess."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from foveate.target import Target

ROOT = Path("/")
_X86 = (
    "sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_bf16 amx_int8"
)
_ARM = "asimd asimddp fphp sve sve2 bf16 i8mm"
INSTRUCTIONS = frozenset(_X86.split() + _ARM.split())
PACKAGES = ("torch", "timm", "numpy", "onnxruntime", "openvino", "nncf", "foveate")
# What of the facts decides latency, versions aside.
HARDWARE = ("machine", "cpu", "cores", "threads", "usable_cpus", "quota_cpus", "instructions", "governor", "gpu")


def device_facts() -> dict[str, Any]:
    """What a report must say of a machine: JSON values, None where the system does not tell.

    `usable_cpus` is what this process may run on (its affinity), `quota_cpus` the share of time a container grants it.
    No accelerator is initialised: the GPU is asked through its driver's own tool.
    """
    import psutil

    info = _cpuinfo()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu_name(info),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "usable_cpus": len(usable_cpus()),
        "quota_cpus": quota_cpus(),
        "default_threads": default_threads(),
        "instructions": sorted(INSTRUCTIONS & set((info.get("flags") or info.get("Features") or "").split())) or None,
        "memory_bytes": psutil.virtual_memory().total,
        "memory_limit_bytes": memory_limit_bytes(),
        "governor": governor(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": versions(),
    }


def fingerprint(facts: Mapping[str, Any], device: str = Target().device) -> str:
    """Short name of the hardware in `facts`, for keys: equal where latencies on `device` may be compared; no versions.

    Of a GPU its name is in it, too: which one is "cuda:1" changes with CUDA_VISIBLE_DEVICES.
    """
    told = {name: facts.get(name) for name in HARDWARE}
    where = Target(device=device)
    if where.kind == "cuda":
        told |= {"device": where.kind, "board": gpu_name(where.index)}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def default_threads() -> int:
    """Threads to run a model with: one a physical core that this process may use, within its container's quota."""
    cores = len(_physical(usable_cpus()))
    quota = quota_cpus()
    # A pool wider than its quota is stopped in mid-run for the rest of every period.
    return max(1, cores if quota is None else min(cores, int(quota)))


def usable_cpus() -> set[int]:
    """Logical CPUs this process may run on."""
    try:
        return set(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return set(range(os.cpu_count() or 1))


def quota_cpus(root: Path = ROOT) -> float | None:
    """CPUs' worth of time the control group grants (tightest v2 `cpu.max` on the way up, v1 `cfs_quota`), or None."""
    found = []
    for text in _up_the_groups(root, "cpu.max"):
        limit, _, period = text.partition(" ")
        if limit.isdigit():
            found.append(int(limit) / int(period or 100_000))
    v1 = root / "sys/fs/cgroup/cpu"
    limit, period = _read(v1 / "cpu.cfs_quota_us"), _read(v1 / "cpu.cfs_period_us")
    if limit and period and int(limit) > 0:
        found.append(int(limit) / int(period))
    return min(found, default=None)


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The control group's memory limit (v2), or None."""
    return min((int(t) for t in _up_the_groups(root, "memory.max") if t.isdigit()), default=None)


def governor(root: Path = ROOT) -> str | None:
    """The frequency governors of the usable CPUs, e.g. "performance"; None where the system (or a VM) has none."""
    policies = root / "sys/devices/system/cpu"
    found = {_read(policies / f"cpu{n}/cpufreq/scaling_governor") for n in usable_cpus()} - {None}
    return "+".join(sorted(map(str, found))) or None


def versions() -> dict[str, str]:
    """Installed versions of what latency depends on. Nothing is imported."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _physical(cpus: set[int], root: Path = ROOT) -> set[tuple[str, str]]:
    """(socket, core) of every usable logical CPU; each CPU a core of its own where the topology is not told."""
    found = set()
    for n in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{n}/topology"
        core = _read(topology / "core_id")
        found.add((_read(topology / "physical_package_id") or "0", core if core is not None else f"cpu{n}"))
    return found


def _up_the_groups(root: Path, name: str) -> list[str]:
    """Contents of the file `name` in this process's control group (v2) and in every one above it."""
    line = re.search(r"^0::/(.*)$", _read(root / "proc/self/cgroup") or "", re.MULTILINE)
    base = root / "sys/fs/cgroup"
    # Inside a container the path may name a group that only the host sees: the mount's own root is then the group.
    group = base / line[1] if line and ".." not in line[1] else base
    groups = [group, *(p for p in group.parents if p.is_relative_to(base))]
    return [text for g in groups if (text := _read(g / name)) is not None]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _cpuinfo(root: Path = ROOT) -> dict[str, str]:
    """/proc/cpuinfo's first processor."""
    first = (_read(root / "proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_name(info: Mapping[str, str]) -> str | None:
    return info.get("model name") or info.get("Model") or platform.processor() or None


def board(index: int) -> str:
    """The driver's own number, or UUID, of CUDA's device `index`: what its tool and NVML want to be asked for.

    CUDA_VISIBLE_DEVICES numbers anew. Boards are taken to be in the driver's order: CUDA puts the fastest first where
    they differ, unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set.
    """
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return seen[index] if index < len(seen) else str(index)


def gpu_name(index: int) -> str | None:
    """Of CUDA's device `index`, as the driver's tool tells it; CUDA is not initialised."""
    return _ask_driver("name", f"--id={board(index)}")


@cache
def gpu_driver(index: int) -> str | None:
    """Version of the driver of CUDA's device `index`."""
    return _ask_driver("driver_version", f"--id={board(index)}")


def _gpu() -> str | None:
    return _ask_driver("name,memory.total,driver_version")


def _ask_driver(what: str, *options: str) -> str | None:
    """The answer of nvidia-smi, lines joined; None where there is no such tool or it has none."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    query = [tool, f"--query-gpu={what}", "--format=csv,noheader", *options]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in found.splitlines() if line.strip()) or None
