"""What the user allows: milliseconds, a speed-up, or points of accuracy."""

from dataclasses import dataclass

from foveate.errors import InputError


@dataclass(frozen=True)
class Budget:
    """At most one of `latency_ms` and `speedup`; `max_drop` beside either is a cap on what that may cost.

    With neither, the fastest plan that loses at most `max_drop` points (default 1) is sought; with one of them, the
    plan that loses least among those fast enough.
    """

    max_drop: float | None = None  # points of top-1; of disagreement with the dense model where there are no labels
    latency_ms: float | None = None
    speedup: float | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None and self.speedup is not None:
            raise InputError("give --latency-ms or --speedup, not both")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InputError(f"--max-drop is {self.max_drop:g}; allowed: 0 to 100 points")
        if self.latency_ms is not None and not self.latency_ms > 0:
            raise InputError(f"--latency-ms is {self.latency_ms:g}; allowed: above 0")
        if self.speedup is not None and not self.speedup > 1:
            raise InputError(f"--speedup is {self.speedup:g}; allowed: above 1")

    @property
    def by_loss(self) -> bool:
        """Is speed to be maximised under a loss, rather than loss minimised under a latency?"""
        return self.latency_ms is None and self.speedup is None

    @property
    def points(self) -> float | None:
        """Points that may be lost; None where there is no cap."""
        return 1.0 if self.by_loss and self.max_drop is None else self.max_drop

    def limit_ms(self, dense_ms: float) -> float | None:
        """The latency asked for, given that of the dense build; None where the budget is in points."""
        if self.latency_ms is not None:
            return self.latency_ms
        return None if self.speedup is None else dense_ms / self.speedup

    def __str__(self) -> str:
        cap = None if self.points is None else f"at most {self.points:g} points lost"
        if self.latency_ms is not None:
            goal = f"at most {self.latency_ms:g} ms"
        elif self.speedup is not None:
            goal = f"at least {self.speedup:g} times faster"
        else:
            goal = "fastest"
        return goal if cap is None else f"{goal}, {cap}"
