"""The main job, and the comparison of methods: what `foveate fit` and `foveate compare` do."""

from foveate.fitting.budget import Budget as Budget
from foveate.fitting.job import fit as fit
from foveate.fitting.outcome import Outcome as Outcome
