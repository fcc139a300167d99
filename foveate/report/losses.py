"""What a plan tried can be judged by: points lost, distance, agreement, in the words of its kind of output."""

from dataclasses import dataclass
from typing import Literal

from foveate.report.figure import as_float
from foveate.report.kinds import DISTANCES, Kind
from foveate.report.words import capital, percent
from foveate.result import Result


@dataclass(frozen=True)
class Loss:
    """What a candidate can be judged by: its tags, the result of the final check, and how the axis is written."""

    tags: tuple[str, ...]  # the first that a row has; later ones are former names
    result: str
    label: str
    head: str  # of the table's column
    y_title: str
    unit: str  # after a figure
    scale: float  # from the tag's unit to the axis's
    places: int
    better: Literal["low", "high"]

    def of(self, r: Result) -> float | None:
        """On the axis."""
        found = (as_float(r.tags.get(tag)) for tag in self.tags)
        value = next((v for v in found if v is not None), None)
        return None if value is None else self.scale * value

    def ends(self, r: Result) -> tuple[float, float] | None:
        """The interval that a row carries in `TAG_low` and `TAG_high`."""
        for tag in self.tags:
            low, high = as_float(r.tags.get(f"{tag}_low")), as_float(r.tags.get(f"{tag}_high"))
            if low is not None and high is not None:
                return self.scale * low, self.scale * high
        return None

    def checked(self, r: Result, value: float) -> float:
        """A number of the final check on the axis."""
        return value if self.result in DISTANCES else float(percent(r, value) or 0.0)


def losses(kind: Kind) -> tuple[Loss, ...]:
    lost, same = f"points of {kind.score} lost on labelled photographs", f"% {kind.agreement} as the dense model"
    unit = f" {kind.unit}".rstrip()
    return (
        Loss(("drop",), "drop", "Points lost", "points lost", lost, " points lost", 1, 1, "low"),
        Loss(
            ("loss", "kl"), kind.distance_result, kind.distance, kind.distance_head,
            kind.distance_title, unit, 1, 3, "low",
        ),
        Loss(("agreement",), "agreement", capital(kind.agreement), kind.agreement_head, same,
             f" % {kind.agreement}", 100, 1, "high"),
    )  # fmt: skip
