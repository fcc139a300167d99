"""How many tokens a budget leaves of a picture: whole numbers that follow from its size alone.

An engine reserves a prompt's places before any attention exists. So the count comes first, and the mask has exactly
that many; a method that cannot say its count beforehand is none that an engine can carry.
"""

import math
from dataclasses import dataclass
from typing import Literal

from foveate.budgets.tiling import Tiling
from foveate.errors import InputError

Newlines = Literal["rows", "all", "none"]
NEWLINES = ("rows", "all", "none")


@dataclass(frozen=True)
class Budget:
    """How much of a picture a language model is shown: a share of its tokens, or a number of them.

    Args:
        ratio: a share of `base`; 1 and more keep everything.
        tokens: a number of tokens a picture, newlines included.
        base: what `ratio` is a share of: "tokens", all that the model would be given of this picture, or "nominal",
            the cells with their padding, as HiRED's paper counts.
    """

    ratio: float | None = None
    tokens: int | None = None
    base: Literal["tokens", "nominal"] = "tokens"

    def __post_init__(self) -> None:
        if (self.ratio is None) == (self.tokens is None):
            raise InputError(f"a budget is a ratio or a number of tokens; got ratio={self.ratio}, tokens={self.tokens}")
        if self.ratio is not None and not (math.isfinite(self.ratio) and self.ratio > 0):
            raise InputError(f"budget {self.ratio} is no share of the tokens; allowed: above 0, and 1 keeps all")
        if self.tokens is not None and (isinstance(self.tokens, bool) or self.tokens != int(self.tokens)):
            raise InputError(f"budget {self.tokens!r} is no number of tokens; allowed: 1, 2, ...")
        if self.tokens is not None and self.tokens < 1:
            raise InputError(f"budget {self.tokens}: a picture keeps at least 1 token")
        if self.base not in ("tokens", "nominal"):
            raise InputError(f"budget base {self.base!r}; allowed: tokens, nominal")

    @classmethod
    def parse(cls, value: "float | int | Budget") -> "Budget":
        """A share where `value` has a fraction or is a float up to 1, a number of tokens where it is an int."""
        if isinstance(value, Budget):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"budget {value!r}; allowed: a share such as 0.2, or a number of tokens such as 576")
        if isinstance(value, int):
            return cls(tokens=value)
        if value > 1:
            raise InputError(f"budget {value}: a share is at most 1.0; a number of tokens is written without a point")
        return cls(ratio=value)

    def of(self, tiling: Tiling) -> int:
        """Tokens for this picture, before its own number bounds them; at least 1."""
        if self.tokens is not None:
            return int(self.tokens)
        assert self.ratio is not None
        if self.ratio >= 1:
            return tiling.tokens
        # a hundredth of a millionth of a token forgives 0.1 * 2880 = 287.99...
        base = tiling.tokens if self.base == "tokens" else tiling.nominal
        return max(1, math.floor(self.ratio * base + 1e-8))


def count(tiling: Tiling, budget: "float | int | Budget", *, newlines: Newlines = "rows") -> int:
    """Tokens that a picture keeps, newlines included. Integers alone: no torch, no pixels.

    Args:
        tiling: the picture's tokens, as `foveate.budgets.sizes` makes them of its size.
        budget: a share of them (float up to 1), a number of them (int), or a `Budget`.
        newlines: "rows" keeps one after each row of the mosaic of which something stays, "all" keeps every one,
            "none" drops them unless everything stays.

    Returns:
        min(budget, what there is): exactly as many as `mask` then has.

    Raises:
        InputError: a budget that is none, or with "all" one that the newlines alone would use up.

    >>> from foveate.budgets import sizes
    >>> count(sizes.anyres((480, 640), [(672, 672)]), 0.2)
    468
    """
    if newlines not in NEWLINES:
        raise InputError(f"newlines {newlines!r}; allowed: {', '.join(NEWLINES)}")
    wanted = Budget.parse(budget).of(tiling)
    if wanted >= tiling.tokens:
        return tiling.tokens
    if newlines == "none":
        return min(wanted, tiling.cells)
    if newlines == "all" and wanted <= tiling.lines:
        raise InputError(
            f"budget of {wanted} tokens: this picture's {tiling.lines} newlines alone use it up; "
            f'allowed: {tiling.lines + 1} or more, or newlines="rows"'
        )
    return wanted
