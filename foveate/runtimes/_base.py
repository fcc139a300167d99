"""The contract a runtime implements: say whether it can be used here, build a deployable file, load one as a callable.

Nothing in this file imports a runtime, or torch: the process that serves a model holds that model's runtime alone.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from foveate.errors import InputError, NotAvailable, one_of
from foveate.registry import Registry
from foveate.staging import spelled, staged_folder
from foveate.target import PRECISIONS, Target

if TYPE_CHECKING:
    from torch import nn

DEVICE = Target().device
Shape = tuple[int | None, ...]  # None: a dimension left open


class Runner:
    """A loaded model: float32 array of the model's shape in, float32 array out.

    A call takes its input from the host and is over when its answer is there: copies and waiting for a device included.
    """

    def __init__(
        self,
        call: Callable[[np.ndarray], np.ndarray],
        shape: Shape,
        resident: Callable[[np.ndarray], Callable[[], object]] | None = None,
    ) -> None:
        """`resident` makes ready to run on an input without copying it, where input and output live on a device."""
        self._call = call
        self._resident = resident
        self.shape = shape

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run the model once.

        Raises:
            InputError: where `x` has another shape or type than the model takes.
        """
        return self._call(self._checked(x))

    def resident(self, x: np.ndarray) -> Callable[[], object]:
        """A call that runs the model on `x`, which lies where the model runs already, and waits; for timing alone.

        Where the model runs on the host this is the plain call. Inputs of one shape share their place: the last counts.
        """
        x = self._checked(x)
        return partial(self._call, x) if self._resident is None else self._resident(x)

    def _checked(self, x: np.ndarray) -> np.ndarray:
        if x.dtype != np.float32:
            raise InputError(f"the input is {x.dtype}; this model takes float32")
        if not fits(x.shape, self.shape):
            raise InputError(f"the input has shape {x.shape}; this model takes {show(self.shape)}")
        return np.ascontiguousarray(x)


class Runtime(ABC):
    """One way to run a model. Never instantiated: its methods are functions over files.

    A new one writes `_why_not`, `_build` and `_load`; checks, messages and atomic writing are done here once.
    """

    kinds: ClassVar[tuple[str, ...]] = ("fp32",)  # precisions it knows, usable here or not
    devices: ClassVar[tuple[str, ...]] = (DEVICE,)  # kinds of device it knows, present here or not
    packages: ClassVar[tuple[str, ...]] = ()  # distributions whose versions belong to every figure
    suffix: ClassVar[str]  # of the main file
    code: ClassVar[bool] = True  # is it a program, which loading runs, or data alone?

    @classmethod
    @abstractmethod
    def _why_not(cls, precision: str, device: str) -> str | None:
        """Why `precision`, one of `kinds`, cannot be built and run on `device`, one of `devices`, of this machine;
        None where it can."""

    @classmethod
    @abstractmethod
    def _build(
        cls, model: "nn.Module", target: Path, *, shape: Shape, precision: str, device: str,
        calibration: np.ndarray | None,
    ) -> None:  # fmt: skip
        """Write the main file `target`, and any other beside it, into a scratch folder that holds nothing else."""

    @classmethod
    @abstractmethod
    def _load(
        cls, path: Path, *, precision: str, threads: int, device: str, shape: tuple[int, ...] | None
    ) -> Runner: ...

    @classmethod
    def warm(cls) -> None:
        """Import what takes seconds, while the process that asked for this one still builds what will be loaded."""
        for package in cls.packages:
            importlib.import_module(package)

    @classmethod  # noqa: B027  (most have nothing to do)
    def serve(cls, threads: int) -> None:
        """Called once, first, in a process that will hold models of this runtime alone."""

    @classmethod
    def beside_int8(cls, device: str) -> str:
        """The precision of all that an int8 build does not compute in int8."""
        return "fp32"

    @classmethod
    def device_facts(cls, device: str) -> dict[str, Any]:
        """What a process that runs models on `device` can say of it: its name, the memory taken there."""
        return {}

    @classmethod
    def why_not(cls, precision: str | None = None, device: str = DEVICE) -> str | None:
        """None where this runtime (in `precision`) can be used on `device` of this machine, else why, in one line.

        Raises:
            InputError: for a precision or a device that there is nowhere.
        """
        kind = Target.of(device=device).kind
        if precision is not None and precision not in PRECISIONS:
            raise one_of("precision", precision, PRECISIONS)
        if kind not in cls.devices:
            return f"{RUNTIMES.name_of(cls)} has no {kind}; it has {', '.join(cls.devices)}"
        if precision is None:
            reasons = [cls._why_not(p, device) for p in cls.kinds]
            return None if None in reasons else reasons[0]
        if precision not in cls.kinds:
            return f"{RUNTIMES.name_of(cls)} has no {precision} here; it has {', '.join(cls.kinds)}"
        return cls._why_not(precision, device)

    @classmethod
    def precisions(cls, device: str = DEVICE) -> tuple[str, ...]:
        """The precisions that can be built and run on `device` of this machine."""
        return tuple(p for p in cls.kinds if cls.why_not(p, device) is None)

    @classmethod
    def build(
        cls,
        model: "nn.Module",
        folder: Path,
        *,
        shape: Shape,
        precision: str,
        device: str = DEVICE,
        calibration: np.ndarray | None = None,
    ) -> Path:
        """Write what is deployed into `folder`; nothing appears there until all of it is whole.

        Args:
            model: one float32 tensor in, one out; on the CPU, in evaluation mode. It is left as it was.
            shape: of the input; None leaves a dimension open (`load` may fix it then).
            device: where it will run. A file may be good for one kind of device alone.
            calibration: float32 [S ...] inputs, needed for int8.

        Returns:
            The main file, `<runtime>-<precision><suffix>`. What else it needs stands beside it under the same stem.

        Raises:
            NotAvailable: where this machine cannot; InputError: for a wrong argument or a folder that is not writable.
        """
        name = RUNTIMES.name_of(cls)
        if (reason := cls.why_not(precision, device)) is not None:
            raise NotAvailable(f"cannot build {name} {precision}: {reason}")
        if model.training:
            raise InputError("the model is in training mode; call its eval() first")
        if any(p.device.type != "cpu" for p in model.parameters()):
            raise InputError(
                "the model is not on the CPU, where building starts whatever it will run on; move it there"
            )
        if not shape or any(n is not None and n < 1 for n in shape):
            raise InputError(f"shape {shape} is not one; give positive sizes, or None for an open one")
        if precision == "int8":
            _check_calibration(calibration, shape)
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with staged_folder(folder) as staged:
                out = staged / "out"
                out.mkdir()
                part = out / f"{name}-{precision}{cls.suffix}"
                cls._build(model, part, shape=shape, precision=precision, device=device, calibration=calibration)
                for file in sorted(out.iterdir(), key=lambda f: f == part):  # the main file last
                    file.replace(folder / file.name)
        except OSError as e:
            raise InputError(f"cannot write {folder}: {e.strerror or e}") from None
        return folder / part.name

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        precision: str,
        threads: int,
        device: str = DEVICE,
        shape: tuple[int, ...] | None = None,
    ) -> Runner:
        """Load what `build` wrote, here or on another machine.

        Args:
            threads: CPU threads. The torch runtimes set it for the whole process.
            device: where to run it; of the kind that it was built for.
            shape: fixes open dimensions, and is checked against the others.

        Raises:
            InputError: where the file is missing or is none of this runtime's, or the shape is not the file's.
            NotAvailable: where this machine lacks the runtime, or the precision.
        """
        name, path = RUNTIMES.name_of(cls), Path(path)
        # Running int8 needs less than making it.
        if (reason := cls.why_not(None if precision == "int8" else precision, device)) is not None:
            raise NotAvailable(f"cannot run {name} {precision}: {reason}")
        if threads < 1:
            raise InputError(f"threads must be at least 1; got {threads}")
        if not path.is_file():
            raise InputError(f"cannot read {path}: no such file")
        try:
            with spelled(path.parent) as folder:
                runner = cls._load(folder / path.name, precision=precision, threads=threads, device=device, shape=shape)
        except (InputError, MemoryError):
            raise
        except Exception as e:  # every runtime has its own classes of errors
            raise InputError(f"cannot load {path} with {name}: {first_line(e)}") from e
        if shape is not None:
            if not fits(shape, runner.shape):
                raise InputError(f"shape {shape} is not that of {path}, which takes {show(runner.shape)}")
            runner.shape = shape
        return runner


def fits(shape: tuple[int, ...], pattern: Shape) -> bool:
    return len(shape) == len(pattern) and all(p is None or n == p for n, p in zip(shape, pattern, strict=True))


def show(shape: Shape) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"


def batches(x: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Rows of x [S ...] in batches [size ...]; the last one is filled up with copies of the last row."""
    for start in range(0, len(x), size):
        part = x[start : start + size]
        yield part if len(part) == size else np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])


def missing(package: str) -> str | None:
    """Why `package` cannot be imported, without importing it; None where it can."""
    try:
        found = importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    return None if found else f"{package} is not installed: pip install {package}"


@cache
def cpu_flags() -> frozenset[str]:
    """What the CPU says it can do (Linux; empty elsewhere)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next(
        (frozenset(l.split(":")[1].split()) for l in lines if l.lower().startswith(("flags", "features"))), frozenset()
    )


def no_bf16() -> str | None:
    """Why bf16 would only be emulated on this CPU; None where it has the instructions."""
    if cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}:
        return None
    return "this CPU has no bf16 instructions (avx512_bf16, amx_bf16 or ARM's bf16), or does not say so"


def first_line(e: BaseException) -> str:
    return next((l.strip() for l in str(e).splitlines() if l.strip()), type(e).__name__)


def _check_calibration(x: np.ndarray | None, shape: Shape) -> None:
    if x is None or len(x) == 0:
        raise InputError("int8 needs calibration inputs: an array of some tens of your own images, preprocessed")
    if x.dtype != np.float32 or not fits(x.shape[1:], shape[1:]):
        raise InputError(
            f"calibration inputs are {x.dtype} {x.shape}; this model takes float32 {show((None, *shape[1:]))}"
        )


RUNTIMES: Registry[Runtime] = Registry("runtime")
