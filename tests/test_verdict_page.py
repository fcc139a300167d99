"""The verdict as it is written and as a page says it: what a plan costs, in the words of every kind of output."""

import json

import pytest
from support.reports import COSTS, Page, compare_results, make_photo, make_verdict, photo, write_folder

from foveate.errors import InputError
from foveate.evaluate.judges import JUDGES
from foveate.plans import Step
from foveate.report import write_comparison, write_report
from foveate.report.cost import cost_of
from foveate.report.kinds import KINDS
from foveate.report.read import read_folder
from foveate.result import read_results, write_results
from foveate.written import BudgetKept, Milliseconds, Overlays, Value, Verdict


@pytest.fixture(autouse=True, scope="module")
def no_plotly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveate.report.page._plotly", lambda: "var Plotly;")
        yield


def page_of(folder, **told) -> Page:
    """Without photographs, which take longest to draw, unless they are asked for."""
    return Page(write_report(write_folder(folder, **({"photos": {}} | told))))


def head_of(page: Page) -> str:
    """The first screen."""
    return page.text[: page.text.index("Key figures")].replace("\u00a0", " ")


@pytest.mark.parametrize("outputs", KINDS)
def test_what_is_written_is_read_back_whole(tmp_path, outputs):
    folder = write_folder(tmp_path, outputs=outputs)
    assert Verdict.load(folder) == make_verdict(outputs=outputs)
    (picture,) = (p for p in Overlays.load(folder).images if p.name == "photo-0.jpg")
    assert picture == make_photo("photo-0.jpg", photo(0), outputs)


def test_a_field_that_no_reader_knows_is_refused(tmp_path):
    folder = write_folder(tmp_path)
    told = json.loads((folder / "verdict.json").read_text())
    (folder / "verdict.json").write_text(json.dumps(told | {"speed": 2}))
    with pytest.raises(InputError, match=r"verdict.json is not a verdict: speed"):
        read_folder(folder)


FORMER = {"outcome": "faster", "budget": "fastest", "budget_met": True, "reason": "", "speedup": None,
          "seconds": 20.0, "stages": {}, "random_weights": False, "rejected": ["slow"]}  # fmt: skip


def test_a_folder_of_the_former_version_opens_by_its_results(tmp_path):
    folder = write_folder(tmp_path, photos={})
    (folder / "verdict.json").write_text(json.dumps(FORMER))
    former = [
        r.model_copy(update={"tags": {("kl" if k == "loss" else k): v for k, v in r.tags.items() if k != "outputs"}})
        for r in read_results(folder / "results.jsonl")
    ]
    write_results(folder / "results.jsonl", former)
    page = Page(write_report(folder))
    assert "verdict.json was written by another version of foveate" in page.text
    head = head_of(page)
    assert "from the same pairs" not in head and "from the same pairs" in head_of(page_of(tmp_path / "new"))
    assert "1.31 \u00d7 faster" in head and "0.4 points of top-1 lost" in head and "3.92 4.88 700" in head
    assert "KL" in [v["label"] for v in json.loads(page.scripts["figures"])["tried"]]


SAID = {
    "classes": ("0.4 points of top-1 lost", "2.4 % of answers changed", "Same top-1 as dense", "KL to dense"),
    "embedding": ("0.4 points of kNN accuracy lost", "2.4 % of neighbours changed", "Same neighbours as dense",
                  "Cosine to dense, worst"),
    "masks": ("0.4 points of mIoU lost", "2.4 % of pixels changed", "Same pixels as dense", "KL to dense"),
}  # fmt: skip


@pytest.mark.parametrize("outputs", KINDS)
def test_a_page_speaks_of_its_kind_of_output(tmp_path, outputs):
    labelled, bare, same, distance = SAID[outputs]
    page, blind = page_of(tmp_path / "a", outputs=outputs), page_of(tmp_path / "b", outputs=outputs, labels=False)
    assert labelled in head_of(page) and bare in head_of(blind)
    assert same in page.text and distance in page.text
    assert [kind for kind in KINDS if KINDS[kind].score in page.text] == [outputs]
    labels = [v["label"] for v in json.loads(page.scripts["figures"])["tried"]]
    assert labels == ["Points lost", KINDS[outputs].distance, same.removesuffix(" as dense")]
    assert ("model.top" in page.text) == (outputs == "classes")
    assert ("vectors = model(images)" in page.text) == (outputs == "embedding")


PICTURES = {"one.jpg": photo(1)}


def test_pictures_show_classes_words_or_masks(tmp_path):
    pages = {kind: page_of(tmp_path / kind, outputs=kind, photos=PICTURES) for kind in KINDS}
    assert "t-shirt" in pages["classes"].text
    for kind in ("embedding", "masks"):
        assert "t-shirt" not in pages[kind].text
    assert pages["embedding"].text.count("Cosine 0.987, 9 of 10 neighbours stay.") == 1
    masks = [a for t, a in pages["masks"].elements if t == "img" and a["src"].startswith("data:image/png")]
    assert [m["alt"].split()[0] for m in masks] == ["Dense", "Reduced"]


@pytest.mark.parametrize("what", ["jpeg_base64", "dense_mask"])
def test_a_picture_that_is_none_is_refused(tmp_path, what):
    folder = write_folder(tmp_path)
    told = json.loads((folder / "overlays.json").read_text())
    told["images"][1][what] = "AAAA"
    (folder / "overlays.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"photograph 'photo-1.jpg'.* cannot be decoded"):
        write_report(folder)


def test_the_three_outcomes_of_a_budget_look_different(tmp_path):
    seen = {}
    for outcome in ("shown", "observed", "broken"):
        kept = BudgetKept(text="at most 1 point", outcome=outcome, said=f"{outcome} by 84 photographs", needed=299)
        page = page_of(tmp_path / outcome, budget=kept)
        (seen[outcome],) = (a["class"] for t, a in page.elements if t == "p" and "budget" in (a.get("class") or ""))
        assert f"{outcome.capitalize()} by 84 photographs." in head_of(page)
        assert ("at least 299 unseen photographs" in head_of(page)) == (outcome == "observed")
    assert len(set(seen.values())) == 3
    style = next(code for name, code in page.scripts.items() if name.startswith("style"))
    assert all(f".budget.{outcome}" in style for outcome in seen)


def test_warnings_baseline_and_next_commands_are_on_the_first_screen(tmp_path):
    page = page_of(
        tmp_path, narrowed=True, baseline="the best dense openvino build", warnings=("the p99 got worse",),
        next=("foveate serve /tmp/out",),
    )  # fmt: skip
    head = head_of(page)
    assert "The p99 got worse." in head and "than the best dense openvino build (" in head
    assert "foveate serve /tmp/out" in head and "The field was narrowed" in page.text


def test_samples_of_stages_are_not_mixed(tmp_path):
    page = page_of(tmp_path)
    assert "1,211" not in page.text and "7.21" not in page.text  # the dense build in the search
    tables = page.text[page.text.index("Key figures") : page.text.index("What it keeps")]
    assert tables.count(" 700 ") == 3  # key figure and two rows


def test_the_tables_follow_the_verdict_where_results_hold_another_sample(tmp_path):
    told = {"dense": Milliseconds(p50=6.2, p99=None, n=64), "plan": Milliseconds(p50=4.7, p99=None, n=64)}
    page = page_of(tmp_path, latency_ms=told)
    assert "dense openvino bf16 1 2 6.20 \u2013 \u2013 64" in page.text  # no percentile of the other sample


def test_a_figure_is_not_rounded_to_the_other_side_of_the_budget():
    lost = Value(name="drop", value=1.04, unit="points", low=0.2, high=1.9, level=0.95, n=84)
    assert cost_of(lost, KINDS["classes"], allowed=1.0).figure == "1.04"
    assert cost_of(lost, KINDS["classes"]).figure == "1.0"
    within = lost.model_copy(update={"value": 0.5, "high": 0.97})
    assert cost_of(within, KINDS["classes"], allowed=1.0).interval == "0.20 to 0.97"


def test_a_gain_is_called_one_and_its_interval_turned():
    gained = COSTS[True].model_copy(update={"value": -0.4, "low": -1.6, "high": 0.81})
    cost = cost_of(gained, KINDS["classes"], allowed=1.0)
    assert (str(cost), cost.interval) == ("0.4 points of top-1 gained", "\u22120.9 to 1.6")


LAST = (Step(block=3, method="tome", tokens=150), Step(block=11, method="topk", tokens=3))


def test_a_step_in_the_last_block_is_explained_where_the_class_token_is_all_that_is_read(tmp_path):
    def said(**told) -> str:
        text = page_of(tmp_path / "out", **told).text
        start = text.find("Block 12 is the last: ")
        return "" if start < 0 else text[start : start + 180]

    assert "after its attention only the class token" in (told := said(steps=LAST, class_token_only=True))
    assert "2 patches stay" in told
    assert "where only the class token is read" in said(steps=LAST)
    assert said(steps=LAST, class_token_only=False) == said(steps=LAST, outputs="masks") == said() == ""
    many = (LAST[0], LAST[1].model_copy(update={"tokens": 40}))
    assert "patches stay" not in said(steps=many) != ""


def test_blocks_are_counted_from_one_everywhere(tmp_path):
    page = page_of(tmp_path, photos=PICTURES)
    assert "After block 4, tome" in page.text and "After block 3, tome" not in page.text
    assert "tome to 150 after block 4" in page.text and "4 tome 150 197" in page.text
    assert "counted from 1" in page.text


def test_runtimes_say_what_int8_costs_and_why_others_were_not_tried(tmp_path):
    text = page_of(tmp_path).text
    assert "onnxruntime int8 4.87 93.8 % 1.03 loses more than the budget allows" in text
    assert "no C++ compiler was found" in text


def test_origin_names_the_device_first(tmp_path):
    folder = write_folder(tmp_path, photos={})
    rows = [r.model_copy(update={"origin": {**r.origin, "device": "cuda", "board": "Example GPU"}})
            for r in read_results(folder / "results.jsonl")]  # fmt: skip
    write_results(folder / "results.jsonl", rows)
    assert "fact value device cuda GPU Example GPU processor Example CPU 3000" in Page(write_report(folder)).text


@pytest.mark.parametrize("outputs", KINDS)
def test_comparisons_speak_of_their_kind(tmp_path, outputs):
    page = Page(write_comparison(compare_results(outputs), tmp_path / "compare.html"))
    kind = KINDS[outputs]
    assert f"{kind.score}, % points lost {kind.agreement}, % {kind.distance_head}" in page.text
    assert len(json.loads(page.scripts["figures"])["methods"]) == 4


@pytest.mark.parametrize("outputs", KINDS)
def test_words_are_those_of_the_judge(outputs):
    if outputs not in JUDGES:
        pytest.skip("no judge of this kind")
    mine, theirs = KINDS[outputs], JUDGES[outputs].words
    for field in ("score", "agreement", "changed"):
        assert getattr(mine, field) == getattr(theirs, field), field
