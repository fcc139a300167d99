"""docs/reliability.md, of what the campaign counted."""

from typing import Any

from benchmarks.markdown import grid, machine

TEXT = """# What holds when things go wrong

`make campaign` breaks foveate in every way that people have reported or strangers might try, and counts. Every
process in it is a real one; every kill is a SIGKILL at a moment drawn by chance. *Lost* is a trial after which a
result was missing, half written or another one, a process was left over, an error was not one line, or a bound on
time or memory did not hold.

- **Killed while it writes**: the folder named by `--out` is what it was before, or the whole new one. A killed
  training goes on with `--resume` and ends with the digits of one that nothing disturbed. What lay in temporary files
  is removed by the next command that writes there.
- **Ctrl-C and SIGTERM**: one line, exit code 130 or 143, within five seconds.
- **Full and read-only disks**: one line, and what was there stays.
- **Folders and photographs that are damaged or hostile**: read, or refused in one line.
- **Clients**: those that send nonsense get a status and one line; those that hold what they can, no more than their
  share.

"""
SKIPPED = ("trials", "lost", "seconds", "seed", "commands")


def reliability(sheet: dict[str, Any]) -> str:
    rows = []
    for name, row in sheet["rows"].items():
        facts = {key: value for key, value in row.items() if key not in SKIPPED}
        if "seed" not in row:  # fuzzing, whose seconds are the processor's
            facts = {"minutes of the processor": round(row["seconds"] / 60), **facts}
        told = ", ".join(f"{_said(key)} {value:,}" for key, value in facts.items())
        rows.append([name, f"{row['trials']:,}", f"{row['trials'] - row['lost']:,}", str(row["lost"]), told])
    seed = next((row["seed"] for row in sheet["rows"].values() if "seed" in row), None)
    return (
        TEXT + grid(["what", "trials", "survived", "lost", "besides"], rows) + "\n"
        + f"Seed {seed}. Fuzzing is guided by coverage (atheris); its trials are executions.\n\n" + machine(sheet)
    )  # fmt: skip


def _said(key: str) -> str:
    words = {"longest_s": "longest s", "peak_mb": "peak MB", "before_mb": "MB before", "after_mb": "after"}
    return words.get(key, key)
