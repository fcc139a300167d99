"""The pages in a real browser, phone and desk, light and dark: nothing overflows, fails or is unreadable."""

import shutil
from pathlib import Path

import pytest
from support.budgets import write_budget_page
from support.reports import compare_results, write_folder, write_masks_page

from foveate.report import write_comparison, write_report

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --disable-dev-shm-usage"
)
BROKEN = {"text": "at most 1 point", "outcome": "broken", "said": "broken: 2.4 points lost on 84 photographs"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.webdriver.chrome.service import Service

    chrome = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chrome is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    yield window
    window.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pages")
    return {
        "fit": write_report(write_folder(root / "fit")),
        "embedding": write_report(write_folder(root / "embedding", outputs="embedding", labels=False)),
        "pictures": write_report(write_folder(root / "pictures", outputs="masks", budget=BROKEN)),
        "dense": write_report(write_folder(root / "dense", faster=False, labels=False)),
        "compare": write_comparison(compare_results(), root / "compare.html", title="Methods compared"),
        "masks": write_masks_page(root / "masks.html"),
        "budget": write_budget_page(root / "budget" / "report.html"),
    }


def show(browser, page: Path, width: int, theme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    browser.get_log("browser")  # empties it
    browser.get(page.as_uri())
    settle(browser)


def settle(browser) -> None:
    """Wait until every plot has its traces."""
    browser.set_script_timeout(10)
    browser.execute_async_script(
        """const done = arguments[0], began = performance.now();
        const look = () => {
          const all = [...document.querySelectorAll('.canvas')];
          if (all.every((c) => c.querySelector('.trace')) || performance.now() - began > 8000) done();
          else setTimeout(look, 20);
        };
        look();"""
    )


def errors(browser) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


CONTRAST = """
const channel = (v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
const light = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const behind = (e) => {
  const chain = [];
  for (; e; e = e.parentElement) chain.push(parse(getComputedStyle(e).backgroundColor));
  return chain.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
};
const bad = [];
for (const e of document.querySelectorAll('body *:not(script):not(style):not(svg *)')) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest('.canvas, .hidden, .skip') || !e.getClientRects().length) continue;
  const under = behind(e), ink = over(parse(getComputedStyle(e).color), under);
  const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) bad.push([ratio.toFixed(2), e.tagName, e.className, e.textContent.slice(0, 30)]);
}
return bad;
"""

PLOTS = """
return [...document.querySelectorAll('[data-figure]')].map((f) => {
  const box = f.querySelector('.main-svg').getBoundingClientRect();
  const marks = [...f.querySelectorAll('.trace .points path, .trace .lines path, .trace path.js-line')];
  const seen = marks.filter((m) => { const r = m.getBoundingClientRect(); return r.width + r.height > 2; });
  return [f.dataset.figure, box.width, box.height, seen.length, f.querySelectorAll('.trace').length];
})"""


FIT = {"curve", "points", "tried"}
BUDGET = {"times", "search", "losses"}


def also(*page):
    """A layout that another of the same page comes close to: with the slow tests."""
    return pytest.param(*page, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name, plots, width, theme",
    [
        ("fit", FIT, 390, "dark"), ("fit", FIT, 1440, "light"),
        also("fit", FIT, 390, "light"), also("fit", FIT, 1440, "dark"),
        ("dense", FIT, 390, "dark"), also("dense", FIT, 1440, "light"),
        ("embedding", FIT, 390, "light"),
        ("pictures", FIT, 390, "dark"), also("pictures", FIT, 1440, "light"),
        ("compare", {"methods"}, 390, "light"), ("compare", {"methods"}, 1440, "dark"),
        ("masks", set(), 390, "dark"), also("masks", set(), 1440, "light"),
        ("budget", BUDGET, 390, "dark"), ("budget", BUDGET, 1100, "light"),
    ],
)  # fmt: skip
def test_a_page_looks_right(browser, pages, name, plots, width, theme):
    show(browser, pages[name], width, theme)
    run = browser.execute_script
    assert errors(browser) == []
    # A phone widens its layout to what overflows, so innerWidth has to be the width that was asked for.
    assert run("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert run(CONTRAST) == []
    paper = run("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(paper) > 384) == (theme == "light")
    assert (
        run("return [...document.images].filter((i) => !(i.alt || i.closest('.stack')) || !i.naturalWidth).length") == 0
    )
    assert run("return [...document.querySelectorAll('svg[role=img]')].filter((s) => !s.ariaLabel).length") == 0
    # What a page loads is inside it: data addresses only.
    loaded = run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert [address for address in loaded if not address.startswith("data:")] == []
    drawn = run(PLOTS)
    assert {row[0] for row in drawn} == plots
    for _, wide, high, marks, traces in drawn:
        assert wide > 0.7 * min(width, 800) and high >= 300 and marks >= 5 and traces >= (1 if plots is BUDGET else 2)


def test_the_contrast_check_can_fail(browser, pages):
    show(browser, pages["compare"], 390, "light")
    browser.execute_script("document.querySelector('footer p').style.color = '#999'")
    assert [row[1] for row in browser.execute_script(CONTRAST)] == ["P"]


def test_the_theme_button_turns_page_and_plots(browser, pages):
    show(browser, pages["fit"], 1440, "light")
    look = """const c = (q, k) => getComputedStyle(document.querySelector(q))[k];
    return [c('body', 'backgroundColor'), c('#curve-plot .xtick text', 'fill')]"""
    before = browser.execute_script(look)
    browser.execute_script("document.getElementById('theme').click()")
    after = browser.execute_script(look)
    browser.execute_script("document.getElementById('theme').click()")
    assert browser.execute_script(look) == before
    assert all(a != b for a, b in zip(before, after))
    browser.execute_script("localStorage.clear()")
    assert errors(browser) == []


def test_the_buttons_of_a_plot_change_what_it_shows(browser, pages):
    show(browser, pages["fit"], 390, "dark")
    titles = []
    for button in browser.find_elements("css selector", "[data-figure=tried] [data-view]"):
        browser.execute_script("arguments[0].click()", button)
        assert button.get_attribute("aria-pressed") == "true"
        titles.append(browser.find_element("id", "tried-y").text)
        settle(browser)
    assert len(set(titles)) == 3 and errors(browser) == []


def test_the_legend_follows_the_view(browser, tmp_path):
    rows = [r for r in compare_results() if not (r.tags["method"] == "tofu" and r.name == "drop")]
    show(browser, write_comparison(rows, tmp_path / "compare.html"), 1440, "light")
    named = "return [...document.querySelectorAll('.keys li')].filter((l) => l.offsetWidth).map((l) => l.dataset.key)"
    before = browser.execute_script(named)
    browser.execute_script("document.querySelector('[data-view=\"2\"]').click()")
    assert "tofu" not in before and browser.execute_script(named) == [*before[:5], "tofu", *before[5:]]


def test_a_script_that_got_in_would_not_run(browser, pages, tmp_path):
    text = pages["fit"].read_text(encoding="utf-8")
    page = tmp_path / "tampered.html"
    page.write_text(text.replace("<main", "<script>window.ran = true</script><img src=x onerror='ran = true'><main", 1))
    show(browser, page, 1440, "light")
    assert browser.execute_script("return window.ran === undefined")
    assert len(errors(browser)) >= 2  # and the check of the other tests sees such refusals
