"""The stages of a long job: what is told of them while they run, and how long each took."""

import time
from collections.abc import Callable

Progress = Callable[[str, float, str], None]
"""progress(stage, share done of it, what is going on)"""


class StageClock:
    """Passes progress on, and knows how long every stage took."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._stages = progress, list[tuple[str, float]]()

    def tell(self, stage: str, share: float, text: str) -> None:
        if not self._stages or self._stages[-1][0] != stage:
            self._stages.append((stage, time.monotonic()))
        self._progress(stage, share, text)

    def seconds(self) -> dict[str, float]:
        ends = [began for _, began in self._stages[1:]] + [time.monotonic()]
        return {stage: round(end - began, 1) for (stage, began), end in zip(self._stages, ends, strict=True)}
