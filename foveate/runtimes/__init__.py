"""Where a model runs: one file a runtime. Importing the file registers it and imports nothing heavy."""

from foveate import plugins
from foveate.runtimes import compile, eager, onnxruntime, openvino  # noqa: F401  (registration)
from foveate.runtimes._base import RUNTIMES as RUNTIMES
from foveate.runtimes._base import Runner as Runner
from foveate.runtimes._base import Runtime as Runtime
from foveate.runtimes._export import sharing_graphs as sharing_graphs
from foveate.runtimes.worker import Worker as Worker
from foveate.target import Target


def why_not(target: Target) -> str | None:
    """None where this machine has what `target` names, else the reason in one line."""
    return RUNTIMES[target.runtime].why_not(target.precision, target.device)


def available() -> dict[str, dict[str, dict[str, str | None]]]:
    """{runtime: {device: {precision: None where it can be used on this machine, else the reason in one line}}}."""
    return {
        name: {device: {p: cls.why_not(p, device) for p in cls.kinds} for device in cls.devices}
        for name, cls in RUNTIMES.items()
    }


plugins.load("foveate.runtimes")
