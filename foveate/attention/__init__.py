"""Attention variants, one file each; importing the file registers it. So do those of other packages."""

from foveate import plugins
from foveate.attention import (  # noqa: F401  (registration)
    hashed_linear,
    sigmoid,
    softmax,
)
from foveate.attention._base import CORES as CORES
from foveate.attention._base import Core as Core

plugins.load("foveate.attention")
