"""foveate fits a vision transformer to the device that has to run it.

    import foveate
    from foveate.evaluate import open_images

    loaded = foveate.load()  # the bundled model; or a timm name, weights="vit_tiny.safetensors"
    images = open_images(None, limit=24).array(loaded.preprocess)
    target = foveate.Target(runtime="openvino")
    profile = foveate.profile(loaded.model, target)
    plans = foveate.plan(loaded.model, images, None, profile.table)
    reduced = foveate.apply(loaded.model, plans[0].steps)  # or foveate.steps(loaded.model, "tome", r=8)
    plan = foveate.Plan(model=loaded.ref, steps=plans[0].steps, target=target)
    folder = foveate.export(loaded.model, plan, "out", preprocess=loaded.preprocess, classes=loaded.classes)
    print(foveate.open(folder).top("photo.jpg"))

Importing this package imports nothing heavy: every name below is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from foveate.version import __version__ as __version__

_WHERE = {
    "load": "loading.load",
    "profile": "profiling",
    "plan": "planning:plan_candidates",
    "steps": "planning.shorthand",
    "apply": "adapters:adapt",
    "export": "artefact",
    "open": "artefact:Artefact",
    "fit": "fitting.job",
    "compare": "commands.compare",
    "Budget": "fitting.budget",
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
    "load", "profile", "plan", "steps", "apply", "export", "open", "fit", "compare",
    "Budget", "METHODS", "RUNTIMES", "Plan", "Step", "Target", "Schedule", "Result", "InputError", "__version__",
]  # fmt: skip

if TYPE_CHECKING:
    from foveate.adapters import adapt as apply
    from foveate.artefact import Artefact as open
    from foveate.artefact import export as export
    from foveate.commands.compare import compare as compare
    from foveate.errors import InputError as InputError
    from foveate.fitting.budget import Budget as Budget
    from foveate.fitting.job import fit as fit
    from foveate.loading.load import load as load
    from foveate.methods import METHODS as METHODS
    from foveate.planning import plan_candidates as plan
    from foveate.planning.shorthand import steps as steps
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
    try:
        value = getattr(import_module(f"foveate.{module}"), attribute or name)
    except ModuleNotFoundError as e:
        if e.name not in ("torch", "timm"):
            raise
        raise ModuleNotFoundError(f"foveate.{name} needs {e.name}: pip install 'foveate[fit]'", name=e.name) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
