"""Linear layers of other arithmetic, one file each; importing the file registers it. So do those of other packages."""

from foveate import plugins
from foveate.linears import (  # noqa: F401  (registration)
    mixture,
    shift,
)
from foveate.linears._base import LINEARS as LINEARS
from foveate.linears._base import LinearVariant as LinearVariant
from foveate.linears._base import for_inference as for_inference
from foveate.linears.formats import FORMATS as FORMATS
from foveate.linears.formats import Codes as Codes
from foveate.linears.formats import Format as Format
from foveate.linears.formats import format_of as format_of
from foveate.linears.mixture import Routed as Routed
from foveate.linears.mixture import latency_aware_loss as latency_aware_loss
from foveate.linears.shift import ShiftLinear as ShiftLinear

plugins.load("foveate.linears")
