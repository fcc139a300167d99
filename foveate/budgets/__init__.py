"""Token budgets for language models that see: how many tokens a picture keeps, and which. One file a method.

The count needs no torch and no pixels:

>>> from foveate import budgets
>>> tiling = budgets.sizes.anyres((1080, 1920), [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)])
>>> tiling.tokens, budgets.count(tiling, 0.2)
(1948, 389)

`BUDGETS` and what masks are made with load torch, and only when they are asked for.
"""

from typing import Any

from foveate.budgets import sizes as sizes
from foveate.budgets.allocation import waterfill as waterfill
from foveate.budgets.count import Budget as Budget
from foveate.budgets.count import count as count
from foveate.budgets.tiling import Tiling as Tiling
from foveate.budgets.tiling import single as single

MASKS = ("BUDGETS", "Allocator", "BudgetMethod", "Kept", "Sight")


def __getattr__(name: str) -> Any:
    if name not in MASKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from foveate.budgets import registered

    return getattr(registered, name)
