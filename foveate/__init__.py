"""foveate fits a vision transformer to the device that has to run it.

    import foveate

    loaded = foveate.load("vit_tiny_patch16_224", weights="vit_tiny.safetensors")
    profile = foveate.profile(loaded.model, foveate.Target(runtime="openvino"))
    plans = foveate.plan(loaded.model, images, profile)
    reduced = foveate.apply(loaded.model, plans[0].steps)
    folder = foveate.export(loaded.model, plan, "out", preprocess=loaded.preprocess)
    print(foveate.open("out").top("photo.jpg"))

Importing this package imports nothing heavy: every name below is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from foveate.version import __version__ as __version__

_WHERE = {
    "load": "loading.load",
    "profile": "profiling",
    "plan": "planning:plan_candidates",
    "apply": "adapters:adapt",
    "export": "artefact",
    "open": "artefact:Artefact",
    "fit": "fitting",
    "Budget": "fitting",
    "METHODS": "methods",
    "RUNTIMES": "runtimes",
    "Plan": "plans",
    "Step": "plans",
    "Schedule": "schedule",
    "Target": "target",
    "Result": "result",
    "InputError": "errors",
}
__all__ = [
    "load", "profile", "plan", "apply", "export", "open", "fit",
    "Budget", "METHODS", "RUNTIMES", "Plan", "Step", "Target", "Schedule", "Result", "InputError", "__version__",
]  # fmt: skip

if TYPE_CHECKING:
    from foveate.adapters import adapt as apply
    from foveate.artefact import Artefact as open
    from foveate.artefact import export as export
    from foveate.errors import InputError as InputError
    from foveate.fitting import Budget as Budget
    from foveate.fitting import fit as fit
    from foveate.loading.load import load as load
    from foveate.methods import METHODS as METHODS
    from foveate.planning import plan_candidates as plan
    from foveate.plans import Plan as Plan
    from foveate.plans import Step as Step
    from foveate.profiling import profile as profile
    from foveate.result import Result as Result
    from foveate.runtimes import RUNTIMES as RUNTIMES
    from foveate.schedule import Schedule as Schedule
    from foveate.target import Target as Target


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(":")
    value = getattr(import_module(f"foveate.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
