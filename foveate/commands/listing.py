"""What foveate knows, and what this machine is."""

from typing import Any

from foveate.errors import one_of


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

        rows = []
        for name, cls in RUNTIMES.items():
            usable = ", ".join(cls.precisions())
            rows.append({"name": name, "precisions here": usable or "-", "why not": cls.why_not() or "-"})
        return rows
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


def examine() -> dict[str, Any]:
    """Facts of this machine, runtimes found, measured peaks."""
    from foveate.hardware.device import default_threads, device_facts
    from foveate.hardware.peaks import measure_peaks
    from foveate.runtimes import RUNTIMES

    facts: dict[str, Any] = {**device_facts(), "threads by default": default_threads()}
    for name, cls in RUNTIMES.items():
        facts[f"runtime {name}"] = cls.why_not() or f"available: {', '.join(cls.precisions())}"
    for peak in measure_peaks():
        facts[f"measured {peak.tags.get('what', peak.name)}"] = f"{peak.value:.4g} {peak.unit}"
    return facts
