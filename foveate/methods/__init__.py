"""Token-reduction methods, one file each; importing the file registers it. So do those of other packages."""

from foveate import plugins
from foveate.methods import (  # noqa: F401  (registration)
    ats,
    evit,
    foveal,
    pitome,
    pomt,
    ppt,
    random,
    tofu,
    tome,
    topk,
    uniform,
)
from foveate.methods._base import METHODS as METHODS
from foveate.methods._base import Merger as Merger
from foveate.methods._base import Reducer as Reducer
from foveate.methods._base import Scorer as Scorer

plugins.load("foveate.methods")
