"""Token-reduction methods, one file each; importing the file registers it."""

from foveate.methods import tome, topk  # noqa: F401  (registration)
from foveate.methods._base import METHODS as METHODS
from foveate.methods._base import Merger as Merger
from foveate.methods._base import Reducer as Reducer
from foveate.methods._base import Scorer as Scorer
