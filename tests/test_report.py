"""The report shows what the folder holds, all of it escaped, and nothing from anywhere else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.reports import (
    COMPARED,
    Page,
    compare_results,
    jpeg,
    make_results,
    photo,
    write_folder,
)

from foveate.errors import InputError
from foveate.report import page as report_page
from foveate.report import write_comparison, write_report
from foveate.report.by_method import HUES
from foveate.report.overlay import draw, outline, runs
from foveate.report.words import NONE, between, bounded, fixed, number
from foveate.result import Result, write_results

PLOTLY = report_page._plotly


@pytest.fixture(autouse=True, scope="module")
def small_plotly():
    """The library is 1.2 MB; one test, and the browser's, put it into the page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveate.report.page._plotly", lambda: "var Plotly;")
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return Page(write_report(write_folder(tmp_path_factory.mktemp("fit") / "out")))


def test_the_verdict_comes_first_with_its_interval_and_its_cost(page):
    head = page.text.index("Key figures")
    for words in (
        "1.31 \u00d7 faster", "99 % interval 1.28 to 1.34 over 700 paired runs", "0.4 points of top-1 lost",
        "95 % interval \u22120.8 to 1.6", "84 photographs the planner did not see", "openvino bf16, batch 1, 2 threads",
        "5.14 6.09 700", "3.92 4.88 700", "Kept as far as these 84 photographs can tell.", "at least 299 unseen",
        "foveate serve DIR", "Best in full precision", "9.86 ms", "Best of any precision", "0.1 points of top-1 lost",
    ):  # fmt: skip
        assert words in page.text[:head], words


@pytest.mark.parametrize(
    "words",
    ["3.92 ms", "5.14", "4.11", "6.09", "4.88", "0.868 GMAC", "0.69 of dense", "88.1 %", "88.5 %", "79.5 to 93.4",
     "97.6 %", "0.0213 nats", "61.7 dB", "9.86", "13.1", "no C++ compiler was found", "Example CPU 3000", "avx512f",
     "2026.4.0", "1,214", "443 GFLOP/s", "36 % of the bf16 peak", "150", "112", "tome", "topk", "2 min 31 s",
     "shirt", "87.4 %", "foveate.open", "foveate run DIR photo.jpg", "2.88", "84.75", "0.561", "1.07",
     "Energy is modelled: a made-up meter", "On 84 photographs",
     "3.91 mJ", "0.74 of dense; modelled: a made-up model"],
)  # fmt: skip
def test_every_figure_of_the_files_is_shown(page, words):
    assert words in page.text


def test_operating_points_are_drawn_by_latency_and_by_energy(page):
    latency, energy = json.loads(page.scripts["figures"])["points"]
    points = latency["data"][1]
    assert points["x"] == [5.137, 4.02, 3.51, 2.884, 2.41] and points["y"] == [88.5, 88.1, 87.25, 84.75, 79.5]
    assert points["error_y"]["array"] == pytest.approx([5] * 5)
    assert energy["data"][1]["x"] == pytest.approx([1.9 * ms / 5.137 for ms in points["x"]])
    assert "modelled" in energy["layout"]["xaxis"]["title"]["text"]


def test_plots_hold_what_was_measured(page):
    figures = json.loads(page.scripts["figures"])
    curve = figures["curve"][0]["data"]
    assert curve[1]["x"] == [197, 150, 112, 80]
    measured = {r.tags["tokens"]: r.value for r in make_results() if r.name == "curve"}
    assert curve[1]["y"] == pytest.approx([measured[n] for n in (197, 150, 112, 80)])
    views = {v["label"]: v for v in figures["tried"]}
    assert set(views) == {"Points lost", "KL", "Same top-1"}
    candidates = [r for r in make_results() if r.name == "candidate"]
    assert sum(len(t["x"]) for t in views["KL"]["data"] if t["mode"] == "markers") == len(candidates) + 1
    for name, tag in (("KL", "loss"), ("Points lost", "drop")):
        line = next(t for t in views[name]["data"] if t["mode"] == "lines")
        every = [(r.value, r.tags[tag]) for r in candidates]
        undominated = [p for p in every if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in every)]
        assert list(zip(line["x"], line["y"])) == sorted(undominated)
    check = next(t for t in views["Points lost"]["data"] if t.get("name") == "check")
    assert (check["x"], check["y"]) == ([3.921], [0.4])
    assert check["error_y"]["array"] == pytest.approx([1.2]) and check["error_y"]["arrayminus"] == pytest.approx([1.2])


def test_token_counts_of_the_overlays_are_the_plans(page):
    assert page.text.count("150 tokens") >= 2 and page.text.count("80 tokens") >= 2
    assert "the plan says" not in page.text


def test_nothing_is_asked_of_the_network(page):
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "formaction"):
            if tag == "script" and name == "src":
                assert name not in attrs
            if value := attrs.get(name):
                assert value.startswith(("#", "data:image/")), (tag, name, value[:80])
        assert not re.search(r"url\(", attrs.get("style") or "")
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
    for name, code in page.scripts.items():
        if name != "plotly":
            for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "import(", "http:", "https:", "WebSocket"):
                assert word not in code, (name, word)
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)></script><!--"


def test_text_from_files_stays_text(tmp_path):
    folder = write_folder(tmp_path / "out", photos={EVIL: photo(0)}, command=EVIL, reason=EVIL)
    rows = [
        r.model_copy(update={"tags": {**r.tags, "plan": EVIL}, "origin": {**r.origin, "cpu": EVIL, EVIL: EVIL}})
        if r.name == "candidate" else r for r in make_results()
    ]  # fmt: skip
    rows.append(Result(name="runtime", value=1, unit="ms", tags={"runtime": EVIL, "reason": EVIL, "available": False}))
    write_results(folder / "results.jsonl", rows)
    path = write_report(folder)
    evil, clean = Page(path), Page(write_report(write_folder(tmp_path / "clean")))

    def scripts(page):
        return sum(tag == "script" for tag, _ in page.elements)

    assert scripts(evil) == scripts(clean)
    assert not any("onerror" in attrs for _, attrs in evil.elements)
    assert "alert(1)" in evil.text
    # Plotly reads tags in labels, so they reach it as entities.
    tried = json.loads(evil.scripts["figures"])["tried"][0]["data"]
    assert all("<script" not in text and "<img" not in text for t in tried for text in t.get("text", []))


def test_the_plotting_library_is_inside_once(tmp_path, monkeypatch):
    monkeypatch.setattr("foveate.report.page._plotly", PLOTLY)
    text = write_report(write_folder(tmp_path / "out")).read_text(encoding="utf-8")
    assert text.count("plotly.js (basic - minified)") == 1 and len(text) < 1.5e6
    assert Page(tmp_path / "out" / "report.html").scripts["plotly"].strip() == PLOTLY().strip()


def test_a_dense_outcome_says_so_and_why(tmp_path):
    page = Page(write_report(write_folder(tmp_path / "out", faster=False)))
    assert "Dense stays" in page.text and "No plan within one point was faster." in page.text
    assert "The best dense build on this machine is what stands in this folder" in page.text and "5.14 ms" in page.text
    assert "Nothing is reduced: all 197 tokens go through all 12 blocks." in page.text
    assert "faster, " not in page.text


def test_random_weights_are_said_loudly_and_claim_nothing(tmp_path):
    page = Page(write_report(write_folder(tmp_path / "out", weights="random")))
    assert page.text.index("Random weights.") < page.text.index("1.31")
    assert "points of top-1 lost (" not in page.text and "97.6 %" not in page.text and "87.4 %" not in page.text


def test_without_labels_the_cost_is_agreement_and_kl(tmp_path):
    page = Page(write_report(write_folder(tmp_path / "out", labels=False)))
    assert "2.4 % of answers changed 95 % interval 0.7 to 8.3 %, on 84 photographs" in page.text
    assert "KL to it 0.0213 nats" in page.text
    assert [v["label"] for v in json.loads(page.scripts["figures"])["tried"]] == ["KL", "Same top-1"]


def test_an_unproven_speedup_is_not_sold_as_one(tmp_path):
    told = {"value": 1.03, "low": 0.99, "high": 1.06, "level": 0.99, "n": 700}
    folder = write_folder(tmp_path / "out", speedup=told)
    assert "this speed-up is not proven" in Page(write_report(folder)).text
    folder = write_folder(tmp_path / "out", speedup=told | {"low": 1.001})
    assert "this speed-up is not proven" not in Page(write_report(folder)).text


def test_missing_parts_are_left_out_and_named(tmp_path):
    folder = write_folder(tmp_path / "out")
    for name in ("overlays.json", "verdict.json"):
        (folder / name).unlink()
    page = Page(write_report(folder))
    assert "overlays.json is not in the folder" in page.text and "verdict.json is not in the folder" in page.text
    assert "1.31" in page.text
    (folder / "results.jsonl").write_text("")
    page = Page(write_report(folder))
    for words in ("no candidates", "no latency curve", "no runtimes", "do not say where they were measured"):
        assert words in page.text
    assert "plotly" not in page.scripts  # 1.2 MB for nothing


@pytest.mark.parametrize("kind", sorted({r.name for r in make_results()}))
def test_any_one_kind_of_result_may_be_missing(tmp_path, kind):
    folder = write_folder(tmp_path / "out", photos={"one.jpg": photo(1)})
    write_results(folder / "results.jsonl", [r for r in make_results() if r.name != kind])
    assert "The plan" in Page(write_report(folder)).text


def damage(folder: Path, name: str, text: str | None) -> None:
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    "name, text, named",
    [
        ("plan.json", None, "plan.json"), ("plan.json", "{", "plan.json"), ("results.jsonl", None, "results.jsonl"),
        ("results.jsonl", "{}\n", "line 1"), ("verdict.json", "[", "verdict.json"),
        ("verdict.json", '{"schema_version": 2}', "verdict.json is not a verdict: outcome"),
        ("overlays.json", '{"grid": [14, 14], "images": [{"name": "a.jpg", "jpeg_base64": "AAAA"}]}', "'a.jpg'"),
        ("overlays.json", "{}", "overlays.json is damaged: grid"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_by_name(tmp_path, name, text, named):
    folder = write_folder(tmp_path / "out")
    damage(folder, name, text)
    with pytest.raises(InputError, match=re.escape(named)):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        write_report(tmp_path / "none")


def test_a_source_map_of_the_wrong_size_is_refused(tmp_path):
    folder = write_folder(tmp_path / "out")
    told = json.loads((folder / "overlays.json").read_text())
    told["images"][0]["blocks"]["3"].pop()
    (folder / "overlays.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"blocks\[3\]: 195 patches; the grid has 196"):
        write_report(folder)


def test_not_a_number_breaks_nothing(tmp_path):
    folder = write_folder(tmp_path / "out")
    rows = [r.model_copy(update={"value": float("nan")}) if r.name in ("kl", "curve") else r for r in make_results()]
    text = "".join(json.dumps(r.model_dump()) + "\n" for r in rows)  # NaN as Python writes it
    (folder / "results.jsonl").write_text(text)
    json.loads(Page(write_report(folder)).scripts["figures"], parse_constant=pytest.fail)


def test_cells_drawn_are_the_cells_owned():
    # Two merged pairs, one dropped patch, three kept:   0 0 1 / 2 -1 3 / 4 4 5 in a 3 x 3 grid.
    d = draw([0, 0, 1, 2, -1, 3, 4, 4, 5], (3, 3), jpeg(Image.new("RGB", (48, 48), (200, 30, 30))))
    assert (d.tokens, d.kept, d.merged, d.gone) == (6, 4, 4, 1)
    assert [r.path for r in d.regions] == ["M0 0h2v1h-2z", "M0 2h2v1h-2z"]
    assert d.dropped == "M1 1h1v1h-1z"
    assert all(abs(int(c) - v) < 4 for c, v in zip(re.findall(r"\d+", d.regions[0].colour), (200, 30, 30)))


def test_an_outline_runs_once_around_its_region():
    cells = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    path = outline(cells)
    length = sum(abs(int(b) - int(a)) for a, b in re.findall(r"M(\d+) \d+H(\d+)", path))
    length += sum(abs(int(b) - int(a)) for a, b in re.findall(r"M\d+ (\d+)V(\d+)", path))
    assert length == 8  # an L of three cells
    assert outline(cells & False) == runs(cells & False) == ""


@pytest.mark.parametrize(
    "value, text",
    [(0.02134, "0.0213"), (1.308, "1.31"), (412.4, "412"), (4816.2, "4,816"), (-0.4, "\u22120.400"), (0, "0"),
     (float("nan"), "\u2013"), (None, "\u2013"), (1e-9, "1.00e\u221209")],
)  # fmt: skip
def test_numbers_read_well(value, text):
    assert number(value) == text


def test_nothing_is_rounded_across_the_bound_it_claims():
    assert bounded(1.31, 1.28, 1.34, 2, limits=(1.0,)) == ("1.31", "1.28", "1.34")
    assert bounded(1.02, 1.004, 1.05, 2, limits=(1.0,)) == ("1.020", "1.004", "1.050")
    assert bounded(1.02, 1.004, 1.05, 2) == ("1.02", "1.00", "1.05")  # what the limit is for
    assert bounded(1.0, 0.9, None, 2, limits=(1.0,)) == ("1.00", "0.90", NONE)
    assert bounded(1.04, None, None, limits=(1.0,))[0] == "1.04"  # points lost, of one that may be
    assert bounded(0.96, 0.31, 0.99, limits=(1.0,)) == ("0.96", "0.31", "0.99")
    assert number(6.674, limits=(6.67,)) == "6.674" and number(6.674) == "6.67"
    assert fixed(-0.04) == "0.0"


@pytest.mark.parametrize("limit", [1.0, 0.0, 0.55])
def test_printed_intervals_hold_the_true_ones(limit):
    for x in np.random.default_rng(0).normal(limit, 0.02, (300, 3)):
        low, value, high = sorted(x.tolist())
        said = [float(t.replace("\u2212", "-")) for t in bounded(value, low, high, limits=(limit,))]
        assert said[1] <= low + 1e-9 and high - 1e-9 <= said[2]
        for true, printed in zip((value, low, high), said):
            assert (printed > limit) == (true > limit) or abs(true - limit) < 1e-5
    assert between(1.21, 1.29) == "1.2 to 1.3"


def test_compare_shows_every_method_at_every_level(tmp_path):
    page = Page(write_comparison(compare_results(), tmp_path / "compare.html", title="clothing_vit <b>"))
    assert "clothing_vit <b>" in page.text and "Scored on 500 photographs" in page.text
    for words in ("pareto", "random", "1.30 1.28 to 1.32", "0.74", "0.0 \u22121.5 to 1.5"):
        assert words in page.text
    views = json.loads(page.scripts["figures"])["methods"]
    assert [v["label"] for v in views] == ["Points lost", "Top-1", "KL", "Same top-1"]
    assert all(len(v["data"]) == len(COMPARED) for v in views)


def test_the_legend_names_only_lines_that_are_there_and_no_two_methods_share_a_colour(tmp_path):
    rows = [r for r in compare_results() if not (r.tags["method"] == "ats" and r.name != "latency")]
    rows = [r for r in rows if not (r.tags["method"] == "tofu" and r.name == "drop")]
    page = Page(write_comparison(rows, tmp_path / "compare.html"))
    views = {v["label"]: v for v in json.loads(page.scripts["figures"])["methods"]}
    assert "ats" not in views["KL"]["keys"] and "tofu" in views["KL"]["keys"]
    assert "tofu" not in views["Points lost"]["keys"]
    shown = {a["data-key"]: "hidden" in a for t, a in page.elements if t == "li" and "data-key" in a}
    assert set(shown) == {*COMPARED} - {"ats"} and [k for k, hidden in shown.items() if hidden] == ["tofu"]
    for view in views.values():
        colours = [t["line"]["color"] for t in view["data"]]
        assert len(colours) == len(view["keys"]) == len(set(colours))
    style = next(code for name, code in page.scripts.items() if name.startswith("style"))
    for hue in (f"--hue-{i}" for i in range(HUES)):
        assert len(set(re.findall(rf"{hue}: (#\w+);", style))) == 2, hue  # light and dark


def test_compare_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="method and level"):
        write_comparison([Result(name="latency", value=1, unit="ms")], tmp_path / "compare.html")


LOADED = "import sys; from foveate.report import page, compare; print([m for m in sys.argv[1:] if m in sys.modules])"


def test_reports_load_no_torch_and_nothing_heavy_before_they_are_needed():
    heavy = ["torch", "timm", "jinja2", "PIL"]
    run = subprocess.run([sys.executable, "-c", LOADED, *heavy, "pydantic"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['pydantic']"  # which is loaded, and shows that the check can fail
