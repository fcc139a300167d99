"""Every method of a token budget; importing its file registers it. So do those of other packages."""

from foveate import plugins
from foveate.budgets import (  # noqa: F401  (registration)
    cdpruner,
    dart,
    diverse,
    divprune,
    hired,
    prunesid,
    random,
    uniform,
    visionzip,
    vispruner,
)
from foveate.budgets._base import BUDGETS as BUDGETS
from foveate.budgets._base import Allocator as Allocator
from foveate.budgets._base import BudgetMethod as BudgetMethod
from foveate.budgets._base import Kept as Kept
from foveate.budgets._base import Sight as Sight

plugins.load("foveate.budgets")
