"""Plans brought to a share of the dense latency, by measuring what they take."""

from collections.abc import Callable, Sequence

import numpy as np

from foveate.facts import Facts
from foveate.fitting.bench import Seat, share_of
from foveate.methods import METHODS
from foveate.planners.table import LatencyTable
from foveate.planning import Candidate
from foveate.plans import Step
from foveate.profiling import Profile
from foveate.schedule import Schedule

Kept = tuple[float, str]  # merit and label of a build


class LatencyMatcher:
    """Builds plans until one takes the share of the dense latency that is asked for."""

    above, below = 0.01, 0.02  # how far off a level, in shares of the dense latency, a plan may land

    def __init__(self, dense: Seat, found: Profile, share: Callable[[Seat, Seat], float] = share_of) -> None:
        self.dense, self.bench, self.found, self.share = dense, dense.bench, found, share
        self._optimism = list[float]()
        self._built = 0

    @property
    def optimism(self) -> float:
        """Predicted over measured latency, each as a share of the dense one: the median so far."""
        return float(np.median(self._optimism)) if self._optimism else 1.0

    def near(self, level: float, steps_for: Callable[[float], tuple[Step, ...]], tries: int = 4) -> str | None:
        """Build what `steps_for` a predicted latency (ms) gives until it lands near `level`; the build's label.

        None where nothing as fast was found. Of those not above the level, the slowest is taken.
        """
        aim, seen, best = level * self.optimism, list[tuple[Step, ...]](), None
        for _ in range(tries):
            steps = steps_for(aim * self.found.dense_ms)
            if not steps or steps in seen:
                break
            seen.append(steps)
            label, share = self._measure(steps)
            best = self._better(best, share if share <= level + self.above else None, label)
            if level - self.below <= share <= level + self.above:
                break
            aim *= level / share
        return None if best is None else best[1]

    def best(self, candidates: Sequence[Candidate], level: float, tries: int = 8) -> str | None:
        """The candidate of least loss among those that land at most near `level`; its build's label."""
        best, left, own = None, sorted(candidates, key=lambda c: c.loss), list[float]()
        for _ in range(tries):
            # How far off predictions were for plans of this very front tells more than for others. A twentieth beyond
            # that is looked at too: the more steps a plan has, the further off its prediction.
            cap = 1.05 * (level + self.above) * (float(np.median(own)) if own else self.optimism) * self.found.dense_ms
            if (candidate := next((c for c in left if c.predicted_ms <= cap), None)) is None:
                break
            left.remove(candidate)
            label, share = self._measure(candidate.steps)
            own.append(self._optimism[-1])
            landed = share <= level + self.above
            best = self._better(best, -candidate.loss if landed else None, label)
            if landed:
                left = [c for c in left if c.loss < candidate.loss]
        return None if best is None else best[1]

    def _measure(self, steps: tuple[Step, ...]) -> tuple[str, float]:
        label = f"plan {self._built}"
        self._built += 1
        self.bench.add(label, steps, precision=self.dense.build.plan.target.precision)
        share = self.share(self.dense, Seat(self.bench, label))
        self._optimism.append(self.found.predict(steps) / self.found.dense_ms / share)
        return label, share

    def _better(self, best: Kept | None, merit: float | None, label: str) -> Kept | None:
        """The build of more merit (None: it missed); the other is forgotten."""
        if merit is None or (best is not None and merit <= best[0]):
            self.bench.drop(label)
            return best
        if best is not None:
            self.bench.drop(best[1])
        return merit, label


def three_blocks(facts: Facts, method: str, table: LatencyTable, limit_ms: float) -> tuple[Step, ...]:
    """Steps in the blocks at 1/4, 1/2 and 3/4 of the depth that keep the same share each and just meet `limit_ms`."""
    blocks = facts.turns or facts.quarters
    for removed in range(1, facts.patches * 3):
        share = 1 - removed / (facts.patches * 3)
        counts, now = {}, facts.patches
        for block in blocks:
            now = max(2, int(now * share + 0.5), now - int(now * METHODS[method].max_drop))
            counts[block] = facts.prefix + now
        schedule = Schedule.cut(facts.tokens, facts.depth, counts, facts.prefix)
        if table.predict(schedule, dict.fromkeys(blocks, method)) <= limit_ms:
            return tuple(Step(block=b, method=method, tokens=n) for b, n in schedule.cuts.items())
    return ()
