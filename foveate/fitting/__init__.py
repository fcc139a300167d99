"""The main job: what `foveate fit` does. See `foveate.fitting.job` for its line of values."""

from foveate.fitting.budget import Budget as Budget
from foveate.fitting.job import fit as fit
from foveate.fitting.outcome import Outcome as Outcome
