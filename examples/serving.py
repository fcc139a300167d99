"""A fitted folder served over HTTP, and asked by the Open Inference Protocol with nothing but the standard library.

foveate serve foveate-out --port 8000 &
python examples/serving.py http://127.0.0.1:8000 clothing_vit photo.jpg
"""

import base64
import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen


def ask(url: str, model: str, photo: str, k: int = 3):
    """[(class, probability)] of a photograph."""
    body = {
        "inputs": [
            {
                "name": "photo", "datatype": "BYTES", "shape": [1],
                "data": [base64.b64encode(Path(photo).read_bytes()).decode()],
            }
        ],
        "outputs": [{"name": "logits", "parameters": {"classification": k}}],
    }  # fmt: skip
    request = Request(f"{url}/v2/models/{model}/infer", json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urlopen(request))["outputs"][0]["data"]


if __name__ == "__main__":
    url, model, photo = sys.argv[1:]
    print(ask(url, model, photo))
