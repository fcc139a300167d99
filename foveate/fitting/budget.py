"""What the user allows (milliseconds, a speed-up, points of quality), and the goal that becomes on this machine."""

from dataclasses import dataclass

from foveate.errors import InputError


@dataclass(frozen=True)
class Goal:
    """A budget once the dense build is timed. It is made once, so that no drift of the machine moves it."""

    limit_ms: float | None  # a call of the plan may take so long; None where speed is what is sought
    points: float | None  # that may be lost; None where there is no cap
    confident: bool = False  # demand that the loss is shown to be within `points`, not only seen to be
    min_cosine: float | None = None  # of the worst unseen photograph's embedding to the given model's

    @property
    def by_loss(self) -> bool:
        """Is speed sought under a loss, rather than little loss under a latency?"""
        return self.limit_ms is None


@dataclass(frozen=True)
class Budget:
    """At most one of `latency_ms` and `speedup`; `max_drop` beside either is a cap on what that may cost.

    With neither, the fastest plan that loses at most `max_drop` points (default 1) is sought; with one of them, the
    plan that loses least among those fast enough. Points are of the score (top-1, kNN accuracy, mIoU) where the
    photographs have labels, else the share of answers that changed.
    """

    max_drop: float | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    confident: bool = False
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        if self.latency_ms is not None and self.speedup is not None:
            raise InputError("give --latency-ms or --speedup, not both")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InputError(f"--max-drop is {self.max_drop:g}; allowed: 0 to 100 points")
        if self.latency_ms is not None and not self.latency_ms > 0:
            raise InputError(f"--latency-ms is {self.latency_ms:g}; allowed: above 0")
        if self.speedup is not None and not self.speedup > 1:
            raise InputError(f"--speedup is {self.speedup:g}; allowed: above 1")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise InputError(f"--min-cosine is {self.min_cosine:g}; allowed: -1 to 1")
        if self.confident and self.points is None:
            raise InputError("--confident needs points that may be lost: give --max-drop beside it")

    @property
    def by_loss(self) -> bool:
        """Is speed to be maximised under a loss, rather than loss minimised under a latency?"""
        return self.latency_ms is None and self.speedup is None

    @property
    def points(self) -> float | None:
        """Points that may be lost; None where there is no cap."""
        return 1.0 if self.by_loss and self.max_drop is None else self.max_drop

    def goal(self, dense_ms: float) -> Goal:
        """What is asked for where the dense build takes `dense_ms`."""
        limit = self.latency_ms if self.speedup is None else dense_ms / self.speedup
        return Goal(limit, self.points, self.confident, self.min_cosine)

    def __str__(self) -> str:
        caps = [] if self.points is None else [f"at most {self.points:g} points lost"]
        if self.confident:
            caps[0] += ", shown"
        if self.min_cosine is not None:
            caps.append(f"no cosine below {self.min_cosine:g}")
        if self.latency_ms is not None:
            goal = f"at most {self.latency_ms:g} ms"
        elif self.speedup is not None:
            goal = f"at least {self.speedup:g} times faster"
        else:
            goal = "fastest"
        return ", ".join([goal, *caps])
