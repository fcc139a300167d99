"""Where a model runs: one file a runtime. Importing the file registers it and imports nothing heavy."""

from foveate.runtimes import compile, eager, onnxruntime, openvino  # noqa: F401  (registration)
from foveate.runtimes._base import PRECISIONS as PRECISIONS
from foveate.runtimes._base import RUNTIMES as RUNTIMES
from foveate.runtimes._base import Runner as Runner
from foveate.runtimes._base import Runtime as Runtime
from foveate.runtimes._export import sharing_graphs as sharing_graphs
from foveate.runtimes.worker import Worker as Worker


def available() -> dict[str, dict[str, str | None]]:
    """{runtime: {precision: None where it can be used on this machine, else the reason in one line}}."""
    return {name: {p: cls.why_not(p) for p in cls.kinds} for name, cls in RUNTIMES.items()}
