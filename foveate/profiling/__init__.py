"""(model, runtime, precision, batch, threads, device) -> latency against token count, and what every block costs."""

from foveate.profiling.curve import Point as Point
from foveate.profiling.curve import Profile as Profile
from foveate.profiling.measure import profile as profile
