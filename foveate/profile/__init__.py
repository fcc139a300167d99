"""(model, runtime, precision, batch, threads, device) -> latency against token count, and what every block costs."""

from foveate.profile._profile import Point as Point
from foveate.profile._profile import Profile as Profile
from foveate.profile.measure import profile as profile
