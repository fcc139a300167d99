"""Coverage-guided fuzzing of what strangers write: the protocol, the files of a folder, tables of labels.

    python -m campaign.fuzz protocol --seconds 3600      # from tests/; needs atheris
    python -m campaign.fuzz plan --seconds 3600 --out ../benchmarks/results/reliability.json

Anything but an answer or an `InputError` ends it, with the input that did. With --out and --corpus of before a run adds
to those: an hour may be made of several, and is one of the processor's time.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("protocol", "plan", "labels")
TARGET = "FOVEATE_FUZZ"


def protocol() -> Callable[[bytes], None]:
    import numpy as np

    from foveate.errors import InputError
    from foveate.serve.bodies import file_of
    from foveate.serve.protocol import Spec, read, write

    classes = ("ant", "bee", "cat")
    spec = Spec("tiny", (2, 2), "classes", (3,), classes, 4, 3)

    def one(data: bytes) -> None:
        kind, length, body = data[:1], int.from_bytes(data[1:3], "little"), bytearray(data[3:])
        try:
            if kind > b"\xc0":
                edge, _, rest = data[3:].partition(b"\n")
                file_of(bytearray(rest), f"multipart/form-data; boundary={edge.decode('latin-1')}")
                return
            asked = read(body, length if kind > b"\x60" else None, spec)
        except InputError:
            return
        count = len(asked.photos) if asked.images is None else len(asked.images)
        write(asked, np.zeros((count, 3), np.float32), spec, (0,) * count, 1.0)

    return one


def plan() -> Callable[[bytes], None]:
    from foveate.artefact import read_card
    from foveate.elastic import Frontier
    from foveate.errors import InputError
    from foveate.plans import Plan
    from foveate.preprocess import Preprocess
    from foveate.written import Overlays, Verdict

    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
    files = ("plan.json", "preprocess.json", "frontier.json", "model.json", "verdict.json", "overlays.json")

    def one(data: bytes) -> None:
        name = files[data[0] % len(files)] if data else files[0]
        (folder / name).write_bytes(data[1:])
        try:
            if name == "plan.json":
                found = Plan.load(folder)
                _ = found.schedule
            elif name == "preprocess.json":
                Preprocess.load(folder / name)
            elif name == "frontier.json":
                Frontier.load(folder)
            elif name == "model.json":
                read_card(folder)
            else:
                (Verdict if name == "verdict.json" else Overlays).load(folder)
        except InputError:
            return

    return one


def labels() -> Callable[[bytes], None]:
    from foveate.errors import InputError
    from foveate.evaluate.layout import find_layout
    from foveate.evaluate.sources import Read, Source
    from foveate.evaluate.tables import TABLES

    class Held(Source):
        shown = "it"

        def __init__(self, table: str, data: bytes) -> None:
            self.table, self.data = table, data

        def names(self) -> list[str]:
            return sorted([self.table, "a.jpg", "b.png", "images/c.png", "d e.jpg"])

        @contextmanager
        def reader(self) -> Iterator[Read]:
            yield lambda name, most=0, /: self.data

    classes = (None, 3, ("ant", "bee", "cat"), 12)

    def one(data: bytes) -> None:
        kind = data[0] if data else 0
        try:
            find_layout(Held(TABLES[kind % len(TABLES)], data[1:]), classes[kind // 8 % 4], own_classes=kind > 127)
        except InputError:
            return

    return one


def seeds(name: str, folder: Path) -> None:
    """Inputs to start from, that are right."""
    if name == "protocol":
        tensor = b'{"name":"image","shape":[1,3,2,2],"datatype":"FP32"'
        text = (
            b'{"id":"a","inputs":[' + tensor + b',"data":[1,2,3,4,5,6,7,8,9,10,11,12]}],"outputs":[{"name":"logits"}]}'
        )
        head = b'{"inputs":[' + tensor + b',"parameters":{"binary_data_size":48}}]}'
        photo = b'{"inputs":[{"name":"photo","shape":[1],"datatype":"BYTES","data":["aGVsbG8="]}],"outputs":[' + (
            b'{"name":"logits","parameters":{"classification":2,"binary_data":true}}]}'
        )
        form = b'b\n--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhello\r\n--b--\r\n'
        found = [b"\x00\x00\x00" + text, b"\x80" + len(head).to_bytes(2, "little") + head + bytes(48)]
        found += [b"\x00\x00\x00" + photo, b"\xff\x00\x00" + form]
    elif name == "plan":
        from support.served import make_folder

        made = make_folder(folder / "made")
        names = ("plan.json", "preprocess.json", "frontier.json", "model.json")
        found = [bytes([i]) + (made / n).read_bytes() for i, n in enumerate(names)]
        found += [b'\x04{"schema_version":1,"reason":"","seconds":1.0}', b'\x05{"schema_version":1,"grid":[2,2]}']
    else:
        csv = b"file,label\na.jpg,ant\nb.png,1\nimages/c.png,cat\n"
        lines = b'{"file_name":"a.jpg","label":1}\n{"file_name":"b.png","label":"bee"}\n'
        found = [b"\x10" + csv, b"\x11file_name,label\na,0\n", b"\x12" + lines, b"\x1bImageId,TrueLabel\na,1\nb,2\n"]
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, data in enumerate(found):
        (corpus / f"seed{i}").write_bytes(data)


def fuzz(name: str) -> None:
    """In a process of its own: libFuzzer ends it as it likes."""
    import atheris  # pyright: ignore[reportMissingImports]

    with atheris.instrument_imports(include=["foveate"]):
        one = {"protocol": protocol, "plan": plan, "labels": labels}[name]()
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--out", type=Path, help="results/reliability.json")
    parser.add_argument("--corpus", type=Path, help="folder of inputs found so far, and for those to come")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        seeds(asked.name, Path(tmp))
        kept = Path(tmp) / "corpus"
        if asked.corpus is not None:
            (asked.corpus / asked.name).mkdir(parents=True, exist_ok=True)
            shutil.copytree(kept, asked.corpus / asked.name, dirs_exist_ok=True)
            kept = (asked.corpus / asked.name).resolve()
        flags = [f"-max_total_time={asked.seconds}", f"-artifact_prefix={tmp}/", "-max_len=4096", "-timeout=20"]
        flags += ["-rss_limit_mb=2048", "-print_final_stats=1"]
        done = subprocess.run(
            [sys.executable, "-m", "campaign.fuzz", *flags, str(kept)], capture_output=True, text=True,
            errors="replace", env=os.environ | {TARGET: asked.name},
        )  # fmt: skip
        ran = re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr) or re.findall(r"#(\d+)\t", done.stderr)
        crashes = [(p.name, p.read_bytes()[:300]) for p in Path(tmp).glob("*-*") if p.is_file()]
        covered = re.findall(r"cov: (\d+)", done.stderr)
        corpus = len(list(kept.iterdir()))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {
        "trials": int(ran[-1]) if ran else 0, "lost": len(crashes), "seconds": round(spent.ru_utime + spent.ru_stime),
        "covered": int(covered[-1]) if covered else 0, "corpus": corpus,
    }  # fmt: skip
    print(f"{asked.name}: {row}")
    if crashes or not ran:
        print(crashes, done.stderr[-3000:])
        sys.exit(1)
    if asked.out is not None:
        from campaign.tally import write_row

        name = f"fuzzing of {NAMED[asked.name]}"
        before = json.loads(asked.out.read_text())["rows"].get(name, {}) if asked.out.exists() else {}
        row |= {key: row[key] + before.get(key, 0) for key in ("trials", "lost", "seconds")}
        write_row(asked.out.resolve(), name, row)


NAMED = {"protocol": "the protocol", "plan": "a folder's files", "labels": "tables of labels"}

if __name__ == "__main__":
    if TARGET in os.environ:
        fuzz(os.environ[TARGET])
    else:
        main()
