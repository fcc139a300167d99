"""The machine: what it is, how fast it is, and how to time two things on it honestly. Knows no model."""

from foveate.hardware.device import default_threads as default_threads
from foveate.hardware.device import device_facts as device_facts
from foveate.hardware.device import fingerprint as fingerprint
from foveate.hardware.timer import Speedup as Speedup
from foveate.hardware.timer import busy as busy
from foveate.hardware.timer import percentiles as percentiles
from foveate.hardware.timer import proven as proven
from foveate.hardware.timer import speedup as speedup
