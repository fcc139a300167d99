"""Plans that need no sensitivities: the same share removed again and again. A search starts from these too."""

from foveate.planners.space import Space, Steps
from foveate.planners.table import LatencyTable


def ladder(space: Space, table: LatencyTable, method: str, *, ms: float, every: int = 1, last: bool = True) -> Steps:
    """Reduce in every `every`-th allowed block by a common ratio, found by bisection, so as to take `ms` or just less.

    Args:
        last: also cut to the least possible in the model's last block, where the space has a method that reaches so
            far. Behind the last attention a patch's MLP changes nothing a class token reads.

    Returns:
        The slowest such plan within `ms`; () where there is none.
    """
    close = space.depth - 1
    free = [b for b in space.blocks if not last or b != close][::every]

    def build(ratio: float) -> Steps:
        steps: Steps = ()
        now, aim = space.start, float(space.start)
        for block in free:
            aim *= ratio
            target = min(space.counts, key=lambda n: (abs(n - aim), n), default=now)
            if space.allows(method, now, target):
                steps += (space.step(block, method, target),)
                now = target
        if last and close in space.blocks and space.counts:
            least = space.counts[0]
            able = [m for m in space.methods if space.allows(m, now, least)]
            if able:
                steps += (space.step(close, able[0], least),)
        return steps

    def cost(steps: Steps) -> float:
        return table.predict(space.schedule(steps), {s.block: s.method for s in steps})

    low, high, best = 0.3, 1.0, ()
    for _ in range(24):
        middle = (low + high) / 2
        if cost(steps := build(middle)) <= ms:
            low, best = middle, steps
        else:
            high = middle
    return best
