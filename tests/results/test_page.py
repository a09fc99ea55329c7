"""The page, as text and in a real browser."""

from __future__ import annotations

import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipeval.results import runs
from clipeval.results.contact_sheet import thumbnail
from clipeval.results.page import charts
from clipeval.results.page.mistakes import data_uri, mistakes, worst_classes
from clipeval.results.tables import report
from scripts.make_pictures import find_chromium, show, start_browser, wait

AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
"""axe-core from npm, which .ci/run installs."""

NAMES = [f"digit <{i}>" for i in range(10)]


def pictures(run, task, keys):
    """A picture for every key but the first."""
    found = {}
    for key in keys[1:]:
        sink = io.BytesIO()
        Image.new("RGB", (40, 30), (hash(key) % 255, 90, 90)).save(sink, "PNG")
        found[key] = sink.getvalue()
    return found


@pytest.fixture(scope="module")
def folders(factory, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")

    def change(task):
        return {
            "mnist": {"prompts": {"name": "folder", "templates": 14, "classnames": NAMES}},
            "imagenetv2": {"flags": ("300 samples, 10,000 expected",), "notes": ("a <b>note</b> & more",)},
        }.get(task, {})

    factory.run(root / "a", change=change, name="ViT-B-32", pretrained="openai")
    factory.run(
        root / "b", ["imagenet1k", "imagenet-a", "mnist"], planned=list(factory.SPECS), name="ViT-B-16", accuracy=0.8
    )
    return [root / "a", root / "b"]


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    found = {
        "one": report(folders[:1], "html", "published", pictures=pictures),
        "two": report(folders, "html", pictures=pictures),
    }
    for name, text in found.items():
        (root / f"{name}.html").write_text(text, encoding="utf-8")
    return root


class Links(html.parser.HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        wanted = {"src", "srcset", "data", "poster", "action"} | ({"href"} if tag == "link" else set())
        self.found += [value for name, value in attrs if name in wanted and tag != "a"]


class Cells(html.parser.HTMLParser):
    """The text of a table's cells."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def test_the_page_fetches_nothing(pages):
    for path in pages.glob("*.html"):
        links = Links()
        links.feed(path.read_text(encoding="utf-8"))
        assert links.found
        assert all(link.startswith("data:") for link in links.found)


def test_names_are_escaped(pages):
    text = (pages / "one.html").read_text(encoding="utf-8")
    assert "a &lt;b&gt;note&lt;/b&gt; &amp; more" in text
    assert "digit <" not in text
    assert "digit &lt;3&gt;" in text


def test_the_page_says_what_the_table_says(pages, folders):
    text = (pages / "two.html").read_text(encoding="utf-8")
    table = text[text.index('<table id="task-table"') : text.index("</table>")]
    cells = Cells()
    cells.feed(table)
    for index, run in enumerate(runs.load(folders)):
        for record in run.records.values():
            row = next(row for row in cells.rows if row and row[0].startswith(record.name))
            assert row[1 + index].startswith("–" if record.value is None else f"{record.value:.4f}")
    assert "INCOMPLETE: 3 of 6 tasks are missing" in text
    assert "300 samples, 10,000 expected" in text


def test_the_worst_classes_are_those_of_least_recall():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 30, 3000)
    wrong = rng.random(3000) < labels / 40
    predictions = np.where(wrong, (labels + 1) % 30, labels)
    worst, confusion = worst_classes(labels, predictions, [f"c{i}" for i in range(30)], 5)
    table = pd.crosstab(labels, predictions, normalize="index")
    expected = np.argsort(np.diag(table))[:5]
    assert [item.name for item in worst] == [f"c{i}" for i in expected]
    for item, label in zip(worst, expected, strict=True):
        assert item.recall == pytest.approx(table.loc[label, label])
        assert item.taken_for[0] == (f"c{(label + 1) % 30}", pytest.approx(table.loc[label, (label + 1) % 30]))
    for row, name in zip(confusion.shares, confusion.rows, strict=True):
        label = int(name[1:])
        for share, column in zip(row, confusion.columns, strict=True):
            assert share == pytest.approx(table.loc[label, int(column[1:])])


def test_the_examples_are_confident_mistakes(folders):
    run = runs.load(folders[:1])[0]
    record = run.records["mnist"]
    found = mistakes(run, record, pictures)
    frame = run.folder.predictions(record).set_index("key")
    assert len(found.examples) == 12
    for example in found.examples:
        row = frame.loc[example.key]
        assert row["label"] != row["prediction"]
        assert (example.truth, example.said) == (NAMES[int(row["label"])], NAMES[int(row["prediction"])])
    wrong = frame[frame["label"] != frame["prediction"]].sort_values("score_1", ascending=False)
    assert found.examples[0].key == wrong.index[0]
    assert [bool(example.picture) for example in found.examples] == [False] + [True] * 11
    assert data_uri(thumbnail(found.examples[1].picture.encode())) == ""


def test_damaged_predictions_leave_a_page_that_says_so(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["mnist"])
    (folder.path / "predictions" / "mnist.parquet").write_bytes(b"")
    assert "mnist.parquet is damaged" in report([folder.path], "html")


def test_the_robustness_trend_is_the_line_through_the_logits():
    x = pd.Series([0.2, 0.5, 0.7, 0.9])
    y = 1 / (1 + np.exp(-(0.8 * np.log(x / (1 - x)) - 0.4)))
    assert charts.trend(x, y) == pytest.approx((0.8, -0.4))


def test_charts_without_data_are_left_out(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["caltech101"])
    assert [chart.name for chart in charts.charts(runs.load([folder.path]))] == ["groups", "compute"]
    nothing = factory.run(tmp_path / "none", ["fairface"])
    assert charts.charts(runs.load([nothing.path])) == []
    assert "FairFace" in report([nothing.path], "html")


def test_an_unprofiled_architecture_is_a_line_among_the_published(factory, tmp_path):
    folder = factory.run(tmp_path / "run", ["mnist"], name="my-own")
    chart = next(chart for chart in charts.charts(runs.load([folder.path])) if chart.name == "compute")
    assert chart.figure.layout.shapes[0].y0 == folder.record("mnist").value
    assert "no count of operations is known for my-own toy_s1m" in chart.text


# In a browser


browser_needed = pytest.mark.skipif(
    find_chromium() is None, reason="chromium and chromedriver are not installed (Debian: chromium chromium-driver)"
)


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    with start_browser() as found:
        yield found


def column(browser, number):
    """The text of a column of the table, its visible rows from above."""
    script = "return [...document.querySelectorAll('#task-table tbody tr')].map(r => r.cells[arguments[0]]?.innerText.trim())"
    return browser.execute_script(script, number)


@browser_needed
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["one", "two"])
def test_every_chart_is_drawn_and_nothing_is_logged(browser, pages, name, width, dark):
    show(browser, pages / f"{name}.html", width, dark)
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(c => [c.id, c.querySelectorAll('use, path').length,"
        " c.getBoundingClientRect().width])"
    )
    assert [chart[0] for chart in drawn] == ["chart-groups", "chart-compute", "chart-robustness"]
    for _, shapes, wide in drawn:
        assert shapes >= 4
        assert 300 < wide <= max(width, 540)
    # No side scroll of the page itself: tables and charts scroll inside their own frame.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # Text is legible in both schemes: it differs from the ground in luminance.
    ground, ink, label = browser.execute_script(
        "const c = (e, p) => getComputedStyle(e).getPropertyValue(p);"
        "return [c(document.body, 'background-color'), c(document.body, 'color'), c(document.querySelector('.chart text'), 'fill')]"
    )
    for text in (ink, label):
        assert contrast(ground, text) > 7
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.querySelectorAll('table.confusion').length") >= 6
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


@browser_needed
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["one", "two"])
def test_axe_finds_nothing(browser, pages, name, dark):
    """Keyboard and screen reader, by the rules of axe-core (WCAG 2 and good practice)."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --prefix build/axe axe-core@4")
    show(browser, pages / f"{name}.html", 1280, dark)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script("const done = arguments[0]; axe.run(document).then(r => done(r.violations))")
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == []


@browser_needed
def test_it_is_readable_without_its_scripts(browser, pages):
    """A slow machine, or a screenshot taken at once, sees the table and the charts as they will be."""
    show(browser, pages / "one.html", 1280)
    read = (
        "const cell = document.querySelector('#task-table tbody td'), c = getComputedStyle(cell);"
        "return [c.paddingLeft, c.fontSize, c.borderTopWidth, document.querySelectorAll('.chart svg').length]"
    )
    after = browser.execute_script(read)
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((pages / "one.html").as_uri())
        assert browser.execute_script("return document.documentElement.dataset.ready") is None
        assert browser.execute_script(read) == after
        assert not browser.execute_script("return document.querySelector('.needs-script').checkVisibility()")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@browser_needed
def test_print_shows_everything(browser, pages):
    show(browser, pages / "one.html")
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.querySelectorAll('details:not([open])').length") == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        hidden = "return ['nav', '.dt-search'].map(s => getComputedStyle(document.querySelector(s)).display)"
        assert browser.execute_script(hidden) == ["none", "none"]
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.querySelectorAll('details[open]').length") == 0


def test_the_page_is_small(pages):
    """Under 2 MB for ten tasks with their pictures; these are six."""
    for path in pages.glob("*.html"):
        assert path.stat().st_size < 2_000_000 * 6 / 10


def test_every_section_has_a_link_and_each_id_is_given_once(pages):
    for path in pages.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        text = text[: text.index("<script")]
        sections = re.findall(r'<section id="([\w-]+)">', text)
        nav = re.findall(r'href="#([\w-]+)"', text[text.index("<nav") : text.index("</nav>")])
        assert nav == sections
        assert all(text.count(f'href="#{name}" aria-label="Link to this section"') == 1 for name in sections)
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids))


def test_a_published_model_has_its_name_over_its_point(pages):
    text = (pages / "one.html").read_text(encoding="utf-8")
    chart = text[text.index('id="chart-compute"') : text.index('id="chart-robustness"')]
    assert chart.count("<title>") == 121
    assert "<title>ViT-B-32 openai</title>" in chart


def contrast(one, other):
    """WCAG's ratio of two CSS colours."""
    light = []
    for colour in (one, other):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


@browser_needed
def test_the_table_sorts_by_number(browser, pages):
    from selenium.webdriver.common.by import By

    show(browser, pages / "one.html")
    before = column(browser, 1)
    head = browser.find_elements(By.CSS_SELECTOR, "#task-table thead th")[1]
    head.click()
    wait(browser, "return document.querySelector('#task-table thead th:nth-child(2)').getAttribute('aria-sort')")
    rising = column(browser, 1)
    assert rising == sorted(before, key=lambda text: -1.0 if text == "–" else float(text))
    assert rising != before
    head.click()
    wait(
        browser,
        "return document.querySelector('#task-table thead th:nth-child(2)').getAttribute('aria-sort') === 'descending'",
    )
    assert column(browser, 1) == rising[::-1]
    # Samples are numbers too, not text: 1,000 comes after 200.
    browser.find_elements(By.CSS_SELECTOR, "#task-table thead th")[4].click()
    wait(browser, "return document.querySelector('#task-table thead th:nth-child(5)').getAttribute('aria-sort')")
    samples = [int(text.replace(",", "")) for text in column(browser, 4)]
    assert samples == sorted(samples)


@browser_needed
def test_the_table_filters(browser, pages):
    from selenium.webdriver.common.by import By

    show(browser, pages / "two.html")
    everything = column(browser, 0)
    assert len(everything) == 6
    box = browser.find_element(By.CSS_SELECTOR, "input[type=search]")
    box.send_keys("imagenet-a")
    wait(browser, "return document.querySelectorAll('#task-table tbody tr').length === 1")
    assert column(browser, 0)[0].startswith("ImageNet-A")
    box.clear()
    box.send_keys(" \b")
    wait(browser, "return document.querySelectorAll('#task-table tbody tr').length === 6")
    # By group, from the list in the column's head.
    head = browser.find_elements(By.CSS_SELECTOR, "#task-table thead th")[-1]
    head.find_elements(By.CSS_SELECTOR, "button")[-1].click()
    wait(browser, "return document.querySelectorAll('.dtcc-dropdown .dtcc-list button').length")
    script = "return [...document.querySelectorAll('.dtcc-dropdown .dtcc-list button')].find(b => b.innerText.trim() === 'VTAB')"
    browser.execute_script(script).click()
    wait(browser, "return document.querySelectorAll('#task-table tbody tr').length === 1")
    assert column(browser, 0) == ["Caltech-101"]
    assert browser.get_log("browser") == []


@browser_needed
def test_a_link_in_the_table_opens_the_tasks_mistakes(browser, pages):
    show(browser, pages / "one.html")
    browser.execute_script("document.querySelector('#task-table a[href=\"#task-mnist\"]').click()")
    wait(browser, "return document.getElementById('task-mnist').open")
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#task-mnist img')].map(i => [i.complete, i.naturalWidth])"
    )
    assert len(sizes) == 11
    wait(browser, "return [...document.querySelectorAll('#task-mnist img')].slice(0, 3).every(i => i.naturalWidth > 0)")


@browser_needed
def test_the_colours_follow_the_scheme_while_the_page_is_open(browser, pages):
    show(browser, pages / "one.html")
    read = "return getComputedStyle(document.querySelector('#chart-compute text')).fill"
    light = browser.execute_script(read)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    wait(browser, f"{read} !== {json.dumps(light)}")
