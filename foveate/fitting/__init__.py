"""The main job: what `foveate fit` does. See `foveate.fitting.job` for its line of values.

What is heavy is imported when it is first used, so that wrong arguments are told at once.
"""

from typing import TYPE_CHECKING, Any

from foveate.fitting.budget import Budget as Budget

if TYPE_CHECKING:
    from foveate.fitting.job import fit as fit
    from foveate.fitting.outcome import Outcome as Outcome


def __getattr__(name: str) -> Any:
    if name == "fit":
        from foveate.fitting.job import fit

        return fit
    if name == "Outcome":
        from foveate.fitting.outcome import Outcome

        return Outcome
    raise AttributeError(f"module 'foveate.fitting' has no attribute {name!r}")
