"""POMT's planner: one cut, placed early, its size chosen by a utility over the measured curves.

Eliopoulos et al., "Pruning One More Token is Enough" (WACV 2025, arXiv:2407.05941). Over a grid of token counts n,
    U_L(n) = 1 - L(n) / max L        U_A(n) = A(n) / max A        U(n) = alpha U_L(n) + (1 - alpha) U_A(n)
with L the latency and A the accuracy at n tokens; n* has the highest utility.

Differs from the public code in what n* means. There the grid counts all tokens, class token included, but the number to
remove is computed as if it counted patches, and one more slot goes to the fused token: 195 - n* are removed of 197, so
n* + 2 tokens are left. Behind a cliff at n* that is the slow side. Here exactly n* tokens are left.
"""

from collections.abc import Sequence

import numpy as np

from foveate.errors import InputError
from foveate.plans import Step


def utility(latency_ms: Sequence[float], accuracy: Sequence[float], *, alpha: float = 0.5) -> np.ndarray:
    """Utility of every grid point, [G]; latency and accuracy in any unit, both at least 0 and not all 0.

    Raises:
        InputError: for an alpha outside [0, 1], or curves of different lengths or without a positive value.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be in [0, 1]; got {alpha}")
    latency, right = np.asarray(latency_ms, float), np.asarray(accuracy, float)
    if latency.shape != right.shape or not latency.size or latency.max() <= 0 or right.max() <= 0:
        raise InputError(
            f"the utility needs as many latencies as accuracies, some above 0; got {latency.size} and {right.size}"
        )
    return alpha * (1 - latency / latency.max()) + (1 - alpha) * right / right.max()


def choose(tokens: Sequence[int], latency_ms: Sequence[float], accuracy: Sequence[float], *, alpha: float = 0.5) -> int:
    """n*: the count (prefix included) with the highest utility; of equals, the one that keeps more tokens."""
    score = utility(latency_ms, accuracy, alpha=alpha)
    if len(tokens) != len(score):
        raise InputError(f"the utility needs a token count for each of {len(score)} latencies; got {len(tokens)}")
    return max(zip(score, tokens, strict=True))[1]


def cut_block(depth: int) -> int:
    """The block that reduces: index 3 of 12. That 25 % of the depth is the general rule is inferred, not stated."""
    return depth // 4


def plan(
    tokens: Sequence[int],
    latency_ms: Sequence[float],
    accuracy: Sequence[float],
    *,
    start: int,
    depth: int,
    method: str = "pomt",
    alpha: float = 0.5,
) -> tuple[Step, ...]:
    """The single step that leaves exactly n* tokens, or none where the utility is highest at `start`, all tokens."""
    best = choose(tokens, latency_ms, accuracy, alpha=alpha)
    return () if best >= start else (Step(block=cut_block(depth), method=method, tokens=best),)
