"""What foveate knows, and what this machine is."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from foveate.errors import InputError, one_of
from foveate.target import Target

if TYPE_CHECKING:
    from foveate.result import Result
    from foveate.runtimes import Runtime

FAMILIES = {  # by the module of timm's that makes them
    "bundled": "ships with foveate",
    "timm.models.vision_transformer": "ViT, AugReg, DeiT-III, CLIP, SigLIP, DINOv2",
    "timm.models.deit": "DeiT",
    "timm.models.eva": "EVA-02, DINOv3, Perception Encoder",
    "foveate.models.vittm.variants": "ViTTM, to be trained",
    "foveate.models.reparameterized.variants": "ViT with converted attention and layers: `foveate reparameterize`",
    "foveate.models.iret.variants": "IRET, to be trained",
    "foveate.models.segmenter.variants": "Segmenter: masks, to be trained",
    "foveate.models.dense.variants": "ViT with a convolutional decoder: masks, to be trained",
}

KINDS = ("attention", "budgets", "linears", "methods", "models", "runtimes")

Progress = Callable[[str, float, str], None]  # stage, share done, text


def listing(what: str, pattern: str | None = None) -> list[dict[str, Any]]:
    """Rows about what is registered of one of KINDS.

    Args:
        pattern: of names of models, such as `vit_small*`: each on a row, where there would be a row a family.

    Raises:
        InputError: for another word, a pattern of something else, or one that no model matches.
    """
    if pattern is not None and what != "models":
        raise InputError(f"list {what} {pattern}: allowed with models alone: list models 'vit_small*'")
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
    if what == "attention":
        from foveate.attention import CORES

        return [
            {
                "name": name,
                "merged tokens": "as their copies" if cls.copies else "by their number alone",
                "options": options_of(cls),
                "what": first_line(cls),
            }
            for name, cls in sorted(CORES.items())
        ]
    if what == "linears":
        from foveate.linears import LINEARS

        return [
            {"name": name, "options": options_of(cls), "what": first_line(cls)} for name, cls in sorted(LINEARS.items())
        ]
    if what == "budgets":
        from foveate.budgets.registered import BUDGETS

        return [
            {
                "name": name,
                "needs": ", ".join(sorted(cls.needs)) or "-",
                "count": "from the size alone" if cls.exact else "depends on the picture",
                "what": first_line(cls),
            }
            for name, cls in sorted(BUDGETS.items())
        ]
    if what == "models":
        return models(pattern)
    raise one_of("kind", what, KINDS)


def models(pattern: str | None = None) -> list[dict[str, Any]]:
    """A row a family, or a row a model whose name matches."""
    import fnmatch

    import timm

    from foveate.loading.bundled import BUNDLED
    from foveate.loading.suggest import nearest_names, supported_names

    names = supported_names()
    if pattern is not None:
        found = fnmatch.filter(names, pattern if set("*?[") & set(pattern) else f"*{pattern}*")
        if not found:
            raise InputError(f"no model matches {pattern!r}; {nearest_names(pattern)}")
        tags = {name: [t.partition(".")[2] for t in timm.list_pretrained(f"{name}.*")] for name in found}
        return [{"name": name, "pretrained tags": ", ".join(filter(None, tags[name])) or "-"} for name in found]
    families: dict[str, list[str]] = {}
    for name in names:
        module = "bundled" if name == BUNDLED else timm.model_entrypoint(name).__module__
        families.setdefault(FAMILIES.get(module, module.removesuffix(".variants").rpartition(".")[2]), []).append(name)
    return [
        {"family": family, "models": len(of), "such as": ", ".join(sorted(of, key=lambda n: (len(n), n))[:3])}
        for family, of in families.items()
    ]


def options_of(cls: type) -> str:
    """Its own, as they are written behind its name: `hashed_linear:quantiser=ksh`."""
    import inspect

    known = inspect.signature(cls.__init__).parameters.values()  # type: ignore[misc]
    own = [p.name for p in known if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]
    return ", ".join(own) or "-"


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
