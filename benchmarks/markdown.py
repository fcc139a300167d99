"""Tables in Markdown, and a line on the machine they are of."""

import math
from collections.abc import Sequence
from typing import Any


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "| " + " | ".join(head) + " |",
        "|" + "|".join(" --- " if i == 0 else " ---: " for i in range(len(head))) + "|",
    ]
    return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in rows]) + "\n"


def machine(sheet: dict[str, Any]) -> str:
    m, about = sheet.get("machine", {}), sheet.get("about", {})
    facts = [
        str(m.get("cpu", "")), f"{m.get('cores', '?')} cores",
        f"{about.get('threads') or m.get('default_threads', '?')} threads",
        f"governor {m.get('governor') or 'unknown'}",
    ]  # fmt: skip
    versions = m.get("versions") or {
        k: v for k, v in m.items() if k in ("python", "torch", "timm", "onnxruntime", "openvino")
    }
    facts += [f"{k} {v}" for k, v in versions.items() if v] if isinstance(versions, dict) else []
    others = sorted({cpu_of(r, sheet) for r in sheet["rows"].values()} - {str(m.get("cpu", ""))})
    rest = f" Some rows are of another one ({', '.join(others)}), with versions of its time." if others else ""
    return "Machine: " + ", ".join(f for f in facts if f) + "." + rest + "\n"


def cpu_of(row: dict[str, Any], sheet: dict[str, Any]) -> str:
    return str(row.get("cpu") or sheet.get("machine", {}).get("cpu", ""))


def outward(low: float, high: float, digits: int = 3) -> tuple[float, float]:
    """An interval rounded away from what it holds."""
    unit = 10**digits
    return math.floor(low * unit) / unit, math.ceil(high * unit) / unit
