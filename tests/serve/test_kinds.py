"""A server of each kind of output: what it is called, what is asked of it, and what photographs are answered with."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from support.asked import photo, refused, tensor
from support.served import INFER, PREPROCESS, binary, expected, images, make_folder, pixel_weights

from foveate.artefact import write_gallery
from foveate.errors import InputError
from foveate.serve import Settings
from foveate.serve.app import create_app
from foveate.serve.served import Served

NAMES = tuple(f"{i}.jpg" for i in range(7))
VECTORS = np.random.default_rng(9).normal(size=(7, 5)).astype(np.float32)
SHAPES = {"embedding": [5], "masks": [5, 32, 32]}


@pytest.fixture(scope="module", params=["embedding", "masks"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    made = make_folder(tmp_path_factory.mktemp(kind), outputs=kind)
    if kind == "embedding":
        write_gallery(made, NAMES, VECTORS)
    return made


def seen(data: bytes) -> np.ndarray:
    return PREPROCESS(Image.open(io.BytesIO(data)))[None]


def test_the_output_is_named_by_its_kind_and_no_class_is_spoken_of(run, kind):
    async def work(client, _):
        described = await client.get("/openapi.json")
        return [a.json() for a in (await client.get("/v2"), await client.get("/v2/models/tiny"), described)]

    server, metadata, described = run(work)
    assert "binary_tensor_data" in server["extensions"] and "classification" not in server["extensions"]
    assert metadata["outputs"] == [{"name": kind, "datatype": "FP32", "shape": [-1, *SHAPES[kind]]}]
    own = {"embedding": "/embed", "masks": "/segment"}[kind]
    assert {"/classify", "/embed", "/segment"} & set(described["paths"]) == {own}
    body = described["paths"][INFER.replace("tiny", "{name}")]["post"]["requestBody"]["content"]["application/json"]
    assert kind in json.dumps(body["schema"]) and "logits" not in json.dumps(body["schema"])
    assert "classification" not in json.dumps(body)
    assert body["example"]["outputs"][0]["name"] == kind


@pytest.mark.parametrize("rows", [1, 6])
def test_outputs_are_the_models_as_json_and_as_bytes(run, kind, rows):
    x = images(rows)

    async def work(client, _):
        body, headers = binary(x)
        return (
            await client.post(INFER, json={"inputs": [tensor(x)], "outputs": [{"name": kind}]}),
            await client.post(INFER, content=body, headers=headers),
        )

    said, raw = run(work)
    output = said.json()["outputs"][0]
    assert (output["name"], output["shape"]) == (kind, [rows, *SHAPES[kind]])
    wanted = expected(x, 0, kind)
    np.testing.assert_allclose(np.array(output["data"]).reshape(output["shape"]), wanted, atol=1e-4)
    tail = raw.content[int(raw.headers["Inference-Header-Content-Length"]) :]
    np.testing.assert_allclose(np.frombuffer(tail, "<f4").reshape(wanted.shape), wanted, atol=1e-4)


def test_what_is_for_another_kind_is_refused_and_says_what_is_allowed(ask, kind):
    def asked(**output):
        return ask("POST", INFER, json={"inputs": [tensor(images(1))], "outputs": [output]})

    refused(asked(name="logits"), 400, "outputs.0.name", f"allowed: '{kind}'")
    refused(asked(name=kind, parameters={"classification": 3}), 400, "classification is for classes", "binary_data")
    own = {"embedding": "/embed", "masks": "/segment"}[kind]
    for path in {"/classify", "/embed", "/segment"} - {own}:
        refused(ask("POST", path, content=photo()), 404, f"answers with {kind}", f"POST {own}")


def test_points_of_another_kind_are_chosen_alike(ask, kind):
    x = images(2)
    answer = ask("POST", INFER, {"point": 2}, json={"inputs": [tensor(x)]}).json()["outputs"][0]
    np.testing.assert_allclose(np.array(answer["data"]).reshape(answer["shape"]), expected(x, 2, kind), atol=1e-4)


def test_a_photograph_becomes_its_vector_and_its_neighbours_or_its_mask(run, kind):
    data = photo()
    found = expected(seen(data), 0, kind)[0]

    async def work(client, _):
        if kind == "embedding":
            return await client.post("/embed?k=3", content=data), await client.post("/embed", content=data)
        return (
            await client.post("/segment", content=data),
            await client.post("/segment", content=data, headers={"accept": "application/json"}),
        )

    first, second = run(work)
    if kind == "embedding":
        np.testing.assert_allclose(first.json()["embedding"], found, atol=1e-4)
        cosines = VECTORS @ found / np.linalg.norm(VECTORS, axis=1) / np.linalg.norm(found)
        order = np.argsort(-cosines)
        assert [n["name"] for n in first.json()["nearest"]] == [NAMES[i] for i in order[:3]]
        assert [n["cosine"] for n in second.json()["nearest"]] == pytest.approx(cosines[order[:5]], abs=1e-5)
    else:
        assert first.headers["content-type"] == "image/png"
        mask = np.asarray(Image.open(io.BytesIO(first.content)))
        np.testing.assert_array_equal(mask, found.argmax(0))
        assert 0 < (mask == pixel_weights(0)[0].argmax()).mean() < 1, "two classes are in it"
        shares = {s["class"]: s["share"] for s in second.json()["shares"]}
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert shares["ant"] == pytest.approx((mask == 0).mean()) if "ant" in shares else not (mask == 0).any()


@pytest.mark.parametrize(
    ("names", "found"), [(None, ["yes"]), (("cat",), ["cat"]), (("dog", "cat"), ["dog", "cat"])], ids=str
)
def test_one_logit_alone_is_a_yes_or_no(tmp_path, names, found):
    x, data = images(1), photo()
    output = [{"name": "logits", "parameters": {"classification": 1}}]
    classified, inferred, too_many = posted(
        make_folder(tmp_path / "yes", classes=names, width=1),
        ("/classify", {"content": data}), (INFER, {"json": {"inputs": [tensor(x)], "outputs": output}}),
        (f"/classify?k={len(found) + 1}", {"content": data}),
    )  # fmt: skip
    yes = 1 / (1 + np.exp(-expected(seen(data), 0, width=1)[0, 0]))
    shares = {t["class"]: t["share"] for t in classified.json()["top"]}
    assert set(shares) == set(found) and shares[found[-1]] == pytest.approx(yes, abs=1e-5)
    assert len(found) == 1 or shares[found[0]] == pytest.approx(1 - yes, abs=1e-5)
    value, index, *label = inferred.json()["outputs"][0]["data"][0].split(":")
    assert float(value) == pytest.approx(expected(x, 0, width=1)[0, 0], abs=1e-4)
    assert (index, label) == ("0", [] if names is None else [found[-1]])
    refused(too_many, 400, "query.k")


def test_without_a_gallery_there_are_no_nearest(tmp_path):
    folder = make_folder(tmp_path / "plain", outputs="embedding")
    answer, too_many = posted(folder, ("/embed", {"content": photo()}), ("/embed?k=1", {"content": photo()}))
    assert set(answer.json()) == {"id", "embedding", "operating_point", "model_ms", "queue_ms"}
    refused(too_many, 400, "query.k")


def posted(folder: Path, *requests: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
    """The answers of an application that serves `folder`."""
    settings = Settings(folder=folder)
    app = create_app(Served(settings), settings)

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://here") as client,
        ):
            return [await client.post(path, **request) for path, request in requests]

    return asyncio.run(main())


def _card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | changes))


def test_a_folder_whose_outputs_are_not_what_it_says_is_not_served(tmp_path):
    folder = make_folder(tmp_path / "a", outputs="masks")
    for says, words in (("classes", r"\[4, 5, 32, 32\] are no classes; allowed: \[n, classes\]"),
                        ("embedding", "are no embedding")):  # fmt: skip
        _card(folder, outputs=says)
        with pytest.raises(InputError, match=words):
            Served(Settings(folder=folder))
    _card(folder, outputs="masks", classes=["one", "two"])
    with pytest.raises(InputError, match="2 class names; allowed: 5 names, or none"):
        Served(Settings(folder=folder))
    _card(folder, outputs="pixels")
    with pytest.raises(InputError, match=r"model\.json is damaged: outputs"):
        Served(Settings(folder=folder))


def test_a_gallery_of_another_width_is_not_served(tmp_path):
    folder = make_folder(tmp_path / "a", outputs="embedding")
    write_gallery(folder, NAMES, VECTORS[:, :4])
    with pytest.raises(InputError, match="5 channels against a gallery of 4"):
        Served(Settings(folder=folder))


def test_large_outputs_are_fewer_images_a_request():
    from foveate.serve.protocol import MOST_BYTES, Spec

    assert Spec("m", (32, 32), "classes", (1000,), None, queue=256).images == 256
    assert Spec("m", (512, 512), "masks", (150, 512, 512), None, queue=256).images == 1
    small = Spec("m", (224, 224), "masks", (4, 224, 224), None, queue=256)
    assert small.images * 4 * 4 * 224 * 224 <= MOST_BYTES < (small.images + 1) * 4 * 4 * 224 * 224


def test_the_device_is_checked_and_handed_on(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="--device is 'tpu'; allowed: cpu, cuda or cuda:N"):
        Settings(folder=tmp_path, device="tpu")
    given = {}

    class Opened:
        def __init__(self, folder, **options):
            given.update(options)
            raise InputError("seen")

    monkeypatch.setattr("foveate.serve.served.Artefact", Opened)
    folder = make_folder(tmp_path / "a")
    for device, wanted in (("cuda:1", {"device": "cuda:1"}), (None, {})):
        given.clear()
        with pytest.raises(InputError, match="seen"):
            Served(Settings(folder=folder, device=device))
        assert given == {"threads": None, "trust": False} | wanted
