"""IRET-style transformers: coarse first, detail only where attention looks. A reconstruction (`model`)."""

from foveate.models.iret import variants as variants
from foveate.models.iret.deciding import Counts as Counts
from foveate.models.iret.deciding import Thresholds as Thresholds
from foveate.models.iret.model import IRET as IRET
from foveate.models.iret.weights import from_vit as from_vit
from foveate.models.iret.weights import stitch as stitch
