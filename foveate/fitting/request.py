"""What a user asks of `fit`, checked before anything heavy is imported or started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from foveate import plugins
from foveate.errors import InputError, one_of
from foveate.evaluate.sources import open_source, sorted_folders
from foveate.facts import OUTPUTS, Outputs
from foveate.files import check_folder
from foveate.fitting.budget import Budget
from foveate.loading.paths import check_weights_file
from foveate.target import PRECISIONS, Precision, Target

PLANNERS = ("pareto", "pomt")
LEAST_IMAGES = 20  # below, there is nothing to measure a loss on
MOST_POINTS = 15
LEAST_SECONDS = 5.0
BUNDLED = "clothing_vit"


@dataclass(frozen=True)
class Request:
    """Everything `fit` is asked for. Raises InputError where a value is out of range; see `fit` for their meaning."""

    name: Any = BUNDLED  # of the model, or the model itself
    weights: str | Path | None = None
    random_weights: bool = False
    allow_pickle: bool = False
    outputs: str | None = None  # the kind, where it is not what the model looks like
    preprocess: Any = None  # what differs from the weights' own: `foveate.preprocess.Preprocess`, or some of its fields
    classes: tuple[str, ...] | None = None  # names, where the model does not bring its own
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of the model's constructor
    data: str | Path | None = None
    images: int = 512
    budget: Budget = field(default_factory=Budget)
    device: str = Target().device
    runtime: str = "auto"
    precision: str = "auto"
    batch: int = 1
    threads: int | None = None
    methods: tuple[str, ...] | None = None
    planner: str = "pareto"
    alpha: float = 0.5
    points: int | None = None
    seed: int = 0
    fresh: bool = False
    seconds: float | None = None  # the whole fit should take
    out: Path = Path("foveate-out")
    command: str = "foveate.fit()"

    def __post_init__(self) -> None:
        Target.of(device=self.device, batch=self.batch, threads=self.threads)
        if self.precision not in (*PRECISIONS, "auto"):
            raise one_of("precision", self.precision, [*PRECISIONS, "auto"])
        if self.outputs is not None and self.outputs not in OUTPUTS:
            raise one_of("kind of output", self.outputs, get_args(Outputs))
        if self.images < LEAST_IMAGES:
            raise InputError(
                f"--images is {self.images}; allowed: {LEAST_IMAGES} or more, for there to be something to measure a "
                "loss on"
            )
        if self.points is not None and not 2 <= self.points <= MOST_POINTS:
            raise InputError(f"--points is {self.points}; allowed: 2 to {MOST_POINTS}, the dense build among them")
        if self.planner not in PLANNERS:
            raise one_of("planner", self.planner, PLANNERS)
        if self.points is not None and self.planner != "pareto":
            raise InputError(f"--points needs --planner pareto; {self.planner} finds one plan")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"--alpha is {self.alpha:g}; allowed: 0 to 1")
        if self.planner == "pomt" and self.methods is not None and len(self.methods) != 1:
            raise InputError(f"--planner pomt takes one --method; got {', '.join(self.methods)}")
        if self.seconds is not None and not self.seconds >= LEAST_SECONDS:
            raise InputError(f"--seconds is {self.seconds:g}; allowed: {LEAST_SECONDS:g} or more")

    def check_here(self, folder: bool = True) -> None:
        """Names that nobody knows, files that are not there and a folder that cannot be written, before anything heavy
        is imported. `folder`: all of it will be written anew.

        Raises:
            InputError: names the first of them.
        """
        from foveate.runtimes import RUNTIMES

        if self.runtime not in (*RUNTIMES, "auto"):
            raise one_of("runtime", self.runtime, [*RUNTIMES, "auto"])
        if not plugins.files():  # what a file would register is known once it is run
            for method in self.methods or ():
                if method not in (known := method_names()):
                    raise one_of("method", method, known)
        if self.data is not None:
            open_source(sorted_folders(self.data)[0])
        if self.weights is not None:
            check_weights_file(self.weights)
        if folder:
            check_folder(self.out)

    @property
    def shown(self) -> str:
        """The model, in a word."""
        return self.name if isinstance(self.name, str) else f"a {type(self.name).__name__}"

    @property
    def narrowed(self) -> str:
        """The runtime or precision that the user named; "" where every dense build here is a contender."""
        return " ".join(name for name in (self.runtime, self.precision) if name != "auto")

    @property
    def precisions(self) -> tuple[Precision, ...]:
        return tuple(p for p in PRECISIONS if self.precision in (p, "auto"))

    def checked_methods(self) -> tuple[str, ...] | None:
        """The methods, once all are known; a lookup that imports torch."""
        from foveate.methods import METHODS

        for method in self.methods or ():
            _ = METHODS[method]
        return self.methods


def method_names() -> list[str]:
    """Of methods, without importing one: a file each, and what installed packages announce."""
    folder = Path(__file__).parent.parent / "methods"
    own = [file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")]
    return sorted([*own, *plugins.names("foveate.methods")])


def as_tuple(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
