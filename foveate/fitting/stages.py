"""The stages of a long job: what is told of them while they run, how long each took, and how long the rest will."""

import time
from collections.abc import Callable, Mapping

Progress = Callable[[str, float, str], None]
"""progress(stage, share done of it, what is going on)"""

Say = Callable[[str], None]
"""say(one line that stays)"""


def quiet(stage: str, share: float, text: str) -> None:
    """A `Progress` for those who want none."""


def silent(line: str) -> None:
    """A `Say` for those who want none."""


class StageClock:
    """Passes progress on with "stage k of n" and the time that is left, and knows how long every stage took.

    `expected`: the stages in order, with the seconds each is expected to take. What is left is what the stages to come
    are expected to take, corrected by how far off the past ones were, and the rest of the present one by its share.
    """

    def __init__(self, progress: Progress, expected: Mapping[str, float]) -> None:
        self._progress, self.expected = progress, dict(expected)
        self._began: list[tuple[str, float]] = []

    def tell(self, stage: str, share: float, text: str) -> None:
        now = time.monotonic()
        if not self._began or self._began[-1][0] != stage:
            self._began.append((stage, now))
        names = list(self.expected)
        if stage not in names:
            self._progress(stage, share, text)
            return
        left = self.left(stage, share, now - self._began[-1][1])
        self._progress(f"{names.index(stage) + 1}/{len(names)} {stage}", share, f"{text} · {spoken(left)} left")

    def left(self, stage: str, share: float, spent: float) -> float:
        """Seconds until the end, `spent` of them in `stage` already."""
        names = list(self.expected)
        done, to_come = self.seconds(), names[names.index(stage) + 1 :]
        past = [name for name in names[: names.index(stage)] if name in done]
        planned = sum(self.expected[name] for name in past)
        pace = sum(done[name] for name in past) / planned if planned > 0 else 1.0
        pace = min(3.0, max(1 / 3, pace))
        own = self.expected[stage] * pace
        here = max(0.0, own - spent) if share < 0.2 else spent * (1 - share) / share
        return here + pace * sum(self.expected[name] for name in to_come)

    def seconds(self) -> dict[str, float]:
        """What each stage took, the present one until now."""
        ends = [began for _, began in self._began[1:]] + [time.monotonic()]
        found: dict[str, float] = {}
        for (stage, began), end in zip(self._began, ends, strict=True):
            found[stage] = round(found.get(stage, 0.0) + end - began, 1)
        return found


def spoken(seconds: float) -> str:
    """About how long, as one says it: 40 s, 3 min."""
    if seconds < 90:
        return f"{5 * max(1, round(seconds / 5))} s"
    return f"{round(seconds / 60)} min"
