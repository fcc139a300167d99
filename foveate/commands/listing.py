"""What foveate knows, and what this machine is."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from foveate.errors import one_of
from foveate.target import Target

if TYPE_CHECKING:
    from foveate.result import Result
    from foveate.runtimes import Runtime

Progress = Callable[[str, float, str], None]  # stage, share done, text


def listing(what: str) -> list[dict[str, Any]]:
    """Rows about the registered `methods`, `runtimes`, or supported `models`.

    Raises:
        InputError: for another word.
    """
    if what == "methods":
        from foveate.methods import METHODS

        return [
            {
                "name": name,
                "needs": ", ".join(sorted(cls.needs)) or "-",
                "proportional attention": "yes" if cls.proportional else "no",
                "what": first_line(cls),
            }
            for name, cls in sorted(METHODS.items())
        ]
    if what == "runtimes":
        from foveate.runtimes import RUNTIMES

        return [
            {
                "name": name,
                "device": device,
                "precisions here": ", ".join(cls.precisions(device)) or "-",
                "why not": cls.why_not(device=device) or "-",
            }
            for name, cls in RUNTIMES.items()
            for device in cls.devices
        ]
    if what == "models":
        from foveate.adapters import ADAPTERS
        from foveate.loading.load import BUNDLED

        bundled = {"name": BUNDLED, "adapter": "timm_vit.TimmViT", "what": "ships with foveate"}
        every = {
            False: "every timm model of this class",
            True: "ours, to be trained: vittm_base_patch28_224 and others",
        }
        hosts = [
            {"name": host, "adapter": adapter, "what": every[host.startswith("foveate.")]}
            for host, adapter in ADAPTERS.items()
        ]
        return [bundled, *hosts]
    raise one_of("kind", what, ("methods", "models", "runtimes"))


def first_line(cls: type) -> str:
    """First sentence of the module's docstring, or of the class's own."""
    import sys

    text = cls.__dict__.get("__doc__") or sys.modules[cls.__module__].__doc__ or ""
    return text.strip().splitlines()[0] if text.strip() else ""


def examine(progress: Progress | None = None) -> dict[str, Any]:
    """Facts of this machine, runtimes found on each device, measured peaks."""
    from foveate.hardware.device import default_threads, device_facts

    tell = progress or (lambda stage, share, text: None)
    tell("machine", 0.0, "what the system says of itself")
    facts: dict[str, Any] = {**device_facts(), "threads by default": default_threads()}
    tell("runtimes", 0.1, "which can be used, and on what")
    from foveate.runtimes import RUNTIMES

    for name, cls in RUNTIMES.items():
        facts |= {f"runtime {name} on {device}": offered(cls, device) for device in cls.devices}
    tell("peaks", 0.3, "matrix products and copies, some seconds")
    from foveate.hardware.peaks import measure_peaks

    devices = [d for d in RUNTIMES["eager"].devices if RUNTIMES["eager"].why_not(device=d) is None]
    devices = devices or [Target().device]  # measured without torch, too
    for i, device in enumerate(devices):
        share = lambda done, i=i: 0.3 + 0.7 * (i + done) / len(devices)
        found = measure_peaks(device=device, progress=lambda done, text, share=share: tell("peaks", share(done), text))
        facts |= labelled(found)
    return facts


def offered(cls: "type[Runtime]", device: str) -> str:
    """What a runtime has on a device, and why it lacks the rest."""
    if (reason := cls.why_not(device=device)) is not None:
        return f"not available: {reason}"
    lacking = [(p, why) for p in cls.kinds if (why := cls.why_not(p, device)) is not None]
    return "; ".join([f"available: {', '.join(cls.precisions(device))}", *(f"not {p}: {why}" for p, why in lacking)])


def labelled(peaks: "Iterable[Result]") -> dict[str, str]:
    """{what was measured, in which precision and where: the figure}."""
    return {
        " ".join(str(w) for w in ("measured", p.tags.get("precision"), p.tags["what"], "on", p.tags["device"]) if w):
            f"{p.value:.4g} {p.unit}"
        for p in peaks
    }  # fmt: skip
