"""Latency table and sensitivities in, plans out. Pure: numpy and pydantic, no torch."""

from foveate.planners.pareto import front as front
from foveate.planners.pareto import least_loss as least_loss
from foveate.planners.pareto import least_ms as least_ms
from foveate.planners.pareto import pareto as pareto
from foveate.planners.pareto import single_cuts as single_cuts
from foveate.planners.refine import Archive as Archive
from foveate.planners.refine import refine as refine
from foveate.planners.space import Scored as Scored
from foveate.planners.space import Sensitivity as Sensitivity
from foveate.planners.space import Space as Space
from foveate.planners.space import Steps as Steps
from foveate.planners.space import key_of as key_of
from foveate.planners.table import Curve as Curve
from foveate.planners.table import LatencyTable as LatencyTable
from foveate.planners.table import ReduceCost as ReduceCost
