"""Folders of photographs, and the labels that were read of them."""

import shutil
import zipfile
from pathlib import Path

from foveate.evaluate import Images
from support.images import two_tone


def photo_folder(tmp_path: Path, *files, zipped=False, name="set") -> Path:
    """Photographs ("cat/a.jpg") and tables (("labels.csv", text)) written into tmp_path/name; it, or a .zip of it."""
    root = tmp_path / name
    for file in files:
        file, text = file if isinstance(file, tuple) else (file, None)
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            two_tone(size=(16, 12)).save(path)
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if not zipped:
        return root
    with zipfile.ZipFile(archive := tmp_path / f"{name}.zip", "w") as z:
        for path in sorted(root.rglob("*")):
            z.write(path, path.relative_to(tmp_path if zipped == "wrapped" else root))
    shutil.rmtree(root)
    return archive


def labelled(images: Images) -> dict[str, int | None]:
    labels = [None] * len(images) if images.labels is None else images.labels.tolist()
    return {name.split("/")[-1]: label for name, label in zip(images.names, labels, strict=True)}
