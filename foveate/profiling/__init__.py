"""(model, target) -> latency against token count, and what every block costs."""

from foveate.profiling.curve import Point as Point
from foveate.profiling.curve import Profile as Profile
from foveate.profiling.measure import profile as profile
