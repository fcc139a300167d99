"""OpenAPI says what the server does: schemathesis makes requests of its description, good and bad, on a real socket."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.served import Server, make_folder, running

from foveate.artefact import write_gallery
from foveate.facts import Outputs

schemathesis = pytest.importorskip("schemathesis")


def photograph(width: int, height: int, shade: int, kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (shade, 40, 90)).save(file, kind)
    return file.getvalue()


def photographs(*kinds: str):
    """Real files: that these are taken is part of what is checked."""
    side = st.integers(8, 60)
    return st.builds(photograph, side, side, st.integers(0, 255), st.sampled_from(kinds))


for media, kinds in (("image/png", ("PNG",)), ("image/jpeg", ("JPEG",)), ("image/webp", ("WEBP",))):
    schemathesis.openapi.media_type(media, photographs(*kinds))


def served(tmp_path_factory, outputs: Outputs) -> Iterator[Server]:
    folder = make_folder(tmp_path_factory.mktemp("served"), outputs=outputs)
    if outputs == "embedding":
        write_gallery(folder, ["a.jpg", "b.jpg", "c.jpg"], np.eye(3, 5, dtype=np.float32))
    with running(folder, tmp_path_factory.mktemp("log") / "log", "--slo-ms", 10_000) as server:
        yield server
        server.end()  # and with it the last lines are written
        errors = [line for line in server.lines() if line["level"] == "error" or line.get("status") == 500]
        assert not errors


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    yield from served(tmp_path_factory, "classes")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    yield from served(tmp_path_factory, "embedding")


# JSON Schema cannot say that data has as many values as shape says, or that bytes are an image: what is generated for
# these may rightly be refused. Both have tests of their own.
LOOSE = ("/infer", "/classify", "/embed")


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_what_is_described_is_what_is_done(server, mode):
    operations = operations_of(server)
    assert len(operations) == 17
    statuses = {status for operation in operations for status in obeyed(operation, mode)}
    assert statuses & ({400, 404, 413, 415} if mode == "negative" else {200})


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_so_it_is_of_a_model_that_embeds(embedder, mode):
    own = [o for o in operations_of(embedder) if o.path in ("/embed", "/v2/models/{name}", "/v2/models/{name}/infer")]
    assert len(own) == 3
    statuses = {status for operation in own for status in obeyed(operation, mode)}
    assert statuses & ({400, 404, 413, 415} if mode == "negative" else {200})


def operations_of(server: Server) -> list:
    described = schemathesis.openapi.from_url(server.url + "/openapi.json")
    return [result.ok() for result in described.get_all_operations()]


def obeyed(operation, mode: str) -> list[int]:
    """The statuses of requests generated for an operation, each checked against its description."""
    if mode == "negative" and not (operation.body or operation.path_parameters or operation.query):
        return []  # nothing of it can be wrong
    found, loose = [], operation.path.endswith(LOOSE)
    excluded = [schemathesis.checks.positive_data_acceptance] if loose else []

    @settings(
        max_examples=6 if loose else 1, deadline=None, derandomize=True, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    def obeys(case):
        found.append(case.call_and_validate(excluded_checks=excluded, timeout=60).status_code)

    obeys()
    return found


@pytest.mark.slow
def test_a_run_of_its_command_line_finds_nothing(server):
    command = [sys.executable, "-m", "schemathesis.cli", "run", server.url + "/openapi.json", "--max-examples", "30",
               "--exclude-checks", "positive_data_acceptance", "--phases", "examples,coverage,fuzzing",
               "--generation-deterministic", "--no-color"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=os.environ.get("TMPDIR", "/tmp"))
    assert done.returncode == 0, done.stdout[-6000:]
    tried = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert tried is not None and tried[1] == tried[2] and int(tried[1]) > 300, done.stdout[-6000:]


def test_every_path_is_described(server):
    document = json.loads(server.get("/openapi.json"))
    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{name}", "/v2/models/{name}/ready",
        "/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}",
        "/v2/models/{name}/versions/{version}/ready", "/v2/models/{name}/versions/{version}/infer", "/classify",
        "/metrics", "/v2/models/stats", "/v2/models/{name}/stats", "/v2/models/{name}/versions/{version}/stats",
        "/v2/models/{name}/config", "/v2/models/{name}/versions/{version}/config", "/v2/repository/index",
    }  # fmt: skip
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]


@pytest.mark.parametrize(("kind", "shape"), [("server", [1, 3]), ("embedder", [1, 5])])
def test_the_example_in_the_description_is_answered(request, kind, shape):
    import urllib.request

    server = request.getfixturevalue(kind)
    document = json.loads(server.get("/openapi.json"))
    body = document["paths"]["/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]
    with urllib.request.urlopen(
        server.url + "/v2/models/tiny/infer", json.dumps(body["example"]).encode(), 30
    ) as answer:
        assert json.loads(answer.read())["outputs"][0]["shape"] == shape
