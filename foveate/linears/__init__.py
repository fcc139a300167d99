"""Linear layers of another arithmetic, each with a slow reference: weights that are shifts, to begin with."""

from foveate.linears.formats import FORMATS as FORMATS
from foveate.linears.formats import Codes as Codes
from foveate.linears.formats import Format as Format
from foveate.linears.formats import format_of as format_of
from foveate.linears.shift import ShiftLinear as ShiftLinear
