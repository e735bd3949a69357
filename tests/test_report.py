"""The page of results: what stands in it, and how it behaves in a browser, where there is one."""

import json
import re
import shutil

import pytest
from fake import FORGETS, IMPROVES, matrix_rows, write_run

from clbench import figures, results
from clbench.cli import main
from clbench.metric import Row
from clbench.report import report

HOSTILE = "<script>window.broken = 1</script>\"'&"
LONG = "a_setting_with_a_name_that_goes_on_and_on_and_has_no_place_to_break_at_all_until_here"


def rows(matrix, flops):
    spent = [Row(step, 10 * step, "cost/train_flops", "", flops * step) for step in (1, 2, 3, 4)]
    moved = [
        Row(step, 10 * step + look, "drift/within_relative", group, 0.1 / look, 5)
        for step in range(3)
        for look in (1, 2)
        for group in ("fc1", "head")
    ]
    return [*matrix_rows(matrix), *spent, *moved]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two boards: one with four rows, of which one diverged; one with what no page should take for its own text."""
    root = tmp_path_factory.mktemp("results")
    for name, accuracies, flops, hash in (
        ("er", (0.6, 0.7), 3e9, "a1"),
        ("naive", (0.2, 0.1), 1e9, "b2"),
        ("joint", (0.8, 0.9), 2e9, "c3"),
    ):
        for seed, accuracy in enumerate(accuracies):
            write_run(
                root,
                name,
                seed,
                rows=rows([*FORGETS[:3], [accuracy] * 4], flops),
                hash=hash * 6,
                commit="4f" * 20,
                config={LONG: "1"},
            )
    write_run(root, "er", 0, state="diverged", at=7, hash="d4" * 6, axes={"memory_size": 500})
    other = {"stream": "zoo", "epochs": 1}
    write_run(
        root,
        "hostile",
        0,
        rows=rows(IMPROVES, 1e9),
        hash="e5" * 6,
        protocol=other,
        axes={LONG: HOSTILE},
        host=HOSTILE,
        preset=HOSTILE,
        config={"strategy.x": HOSTILE},
    )
    write_run(root, "plain", 0, rows=rows(IMPROVES, 1e9), hash="f6" * 6, protocol=other, axes={LONG: 3})
    return root


@pytest.fixture(scope="module")
def page(folder):
    return report(results.find(folder), title=HOSTILE)


# What stands in it.


def test_the_numbers_are_the_leaderboards(folder, page):
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)))
    board = results.leaderboard(results.find(folder))[0]
    assert [row.strategy for row in board.rows] == ["joint", "er", "naive", "er"]
    for row in board.rows[:3]:
        cell = row.cells["class/final_accuracy"]
        assert f"{100 * cell.mean:.1f} ± {100 * cell.half_width:.1f}" in shown
        assert f'data-value="{cell.mean!r}"' in page
    assert "1 diverged at step 7" in shown or "diverged at step 7" in shown
    assert "as the first board" not in shown


def test_the_same_results_give_the_same_page(folder, page):
    assert report(results.find(folder), title=HOSTILE) == page


def test_nothing_of_the_results_is_taken_for_the_pages_own(page):
    assert "<script>window.broken" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;window.broken" in page
    assert page.count("</script>") == 1


def test_nothing_is_fetched(page):
    addresses = set(re.findall(r"https?://[^\"' )]+", page))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page)
    assert "default-src 'none'" in page


def test_names_within_the_page_are_unique_and_lead_somewhere(page):
    ids = re.findall(r"\bid=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))
    led = re.findall(r"(?:href=\"#|url\(#|aria-controls=\"|aria-labelledby=\"|data-row=\")([^\")]+)", page)
    assert led
    assert set(led) <= set(ids)


def test_every_figure_is_there_once(page):
    files = re.findall(r"<figure data-file=\"([^\"]+)\"", page)
    assert sorted(set(files)) == sorted(files)
    assert [name for name in files if name.startswith("toy")] == [
        "toy-cost", "toy-curves", "toy-joint-c3c3c3c3-matrix", "toy-er-a1a1a1a1-matrix", "toy-naive-b2b2b2b2-matrix",
        "toy-joint-c3c3c3c3-drift", "toy-er-a1a1a1a1-drift", "toy-naive-b2b2b2b2-drift",
    ]  # fmt: skip
    assert page.count("<svg") == len(files)


def test_cost_is_drawn_against_what_is_ranked_by(folder, page):
    assert "Final accuracy (class) against training compute" in page
    by_forgetting = report(results.find(folder), rank_by="class/forgetting")
    assert "Forgetting (class) against training compute" in by_forgetting
    assert [text.count(">forgetting (class), %<") for text in (page, by_forgetting)] == [0, 2]


def test_each_row_says_how_to_run_it_again(folder, page):
    assert f"git checkout {'4f' * 20}\nclbench reproduce {'a1' * 6}\n" in page
    assert "clbench run config=config.yaml &#39;seed=range(2)&#39;" in page or "config.yaml 'seed=range(2)'" in page
    assert "clbench reproduce a1a1a1a1a1a1 --results kept" in report(results.find(folder), place=" --results kept")


def test_a_board_without_a_finished_run_says_so(tmp_path):
    write_run(tmp_path, "er", state="failed", error="OSError: no space left")
    text = report(results.find(tmp_path))
    assert "no configuration has all its runs done" in text
    assert "OSError: no space left" in text
    assert "<figure" not in text


def test_many_rows_are_drawn_in_part_and_the_page_stays_small(tmp_path):
    for number in range(14):
        write_run(
            tmp_path,
            "er",
            rows=rows([*FORGETS[:3], [number / 20] * 4], 1e9),
            hash=f"{number:02}" * 6,
            axes={"memory_size": number},
        )
    text = report(results.find(tmp_path))
    assert text.count("the best 12 rows</span>") == 2
    assert len(text) < 14 * 60_000


def test_a_figure_as_svg():
    rows = matrix_rows(FORGETS)
    text = figures.svg(figures.accuracy_matrix(rows), "one")
    assert text == figures.svg(figures.accuracy_matrix(rows), "one")
    assert text.startswith("<svg ")
    assert text.endswith("</svg>")
    assert ">experiences learned</text>" in text
    assert ">0.62</text>" in text
    assert "currentColor" in text
    assert "#000000" not in text
    assert "<style" not in text
    ids = re.findall(r" id=\"([^\"]+)\"", text)
    assert ids
    assert all(id.startswith("one-") for id in ids)


def test_numbers_in_a_figure_are_whole():
    moved = [Row(0, look, "drift/within_relative", "fc1", value, 5) for look, value in enumerate((0.0019, 0.0051))]
    text = figures.svg(figures.drift_map(moved), "one")
    assert ">0.002</text>" in text
    assert ">0.005</text>" in text


def test_the_command(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "zoo", tmp_path / "results" / "zoo")
    assert main(["report"]) == 0
    assert re.fullmatch(r"results/report\.html: 2 runs, \d+ kB\n", capsys.readouterr().out)
    assert "clbench reproduce e5e5e5e5e5e5\n" in (tmp_path / "results" / "report.html").read_text()
    assert main(["report", "results", "--to", "no/page.html"]) == 2
    assert capsys.readouterr().err == "no/page.html can't be written: No such file or directory.\n"
    (tmp_path / "empty").mkdir()
    assert main(["report", "empty"]) == 2
    assert main(["report", "results", "--metric", "no/such"]) == 2


# How it behaves.


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """Chromium with the page open."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no Chromium with its chromedriver")
    home = tmp_path_factory.mktemp("browser")
    (home / "page.html").write_text(page, encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", f"--user-data-dir={home / 'profile'}"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture
def opened(browser, page, tmp_path):
    """A function that opens the page anew at a width. The console must stay empty, and nothing may be fetched."""
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()

    def open_at(width):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get("about:blank")
        browser.get_log("performance")
        browser.get(address)
        return browser

    yield open_at
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in sent if not url.startswith("data:")} == {address}
    assert browser.execute_script("return window.broken") is None


def names(browser):
    """The rows of the first board that can be seen, by the beginning of their hash."""
    script = "return [...document.querySelector('.board').tBodies].filter(b => !b.hidden).map(b => b.dataset.hash)"
    return [hash[:2] for hash in browser.execute_script(script)]


def heading(browser, text):
    [found] = [b for b in browser.find_elements("css selector", "#b1 .board > thead button") if text in b.text]
    return found


def orders(browser):
    return [cell.get_attribute("aria-sort") for cell in browser.find_elements("css selector", "#b1 .board > thead th")]


def test_a_heading_sorts(opened):
    browser = opened(1400)
    assert names(browser) == ["c3", "a1", "b2", "d4"]
    assert orders(browser)[2] == "descending"
    heading(browser, "compute").click()
    assert names(browser) == ["b2", "c3", "a1", "d4"], "less is better, and a row without a value is last"
    assert orders(browser).count("none") == len(orders(browser)) - 1
    heading(browser, "compute").click()
    assert names(browser) == ["a1", "c3", "b2", "d4"]
    heading(browser, "strategy").click()
    assert names(browser) == ["a1", "d4", "c3", "b2"]
    assert orders(browser)[0] == "ascending"


def test_the_keyboard_sorts_and_opens(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened(1400)
    heading(browser, "final accuracy").send_keys(Keys.ENTER)
    assert names(browser) == ["b2", "a1", "c3", "d4"]
    assert orders(browser)[2] == "ascending"
    row = browser.find_element("css selector", "#b1r2 .name button")
    details = browser.find_element("css selector", "#b1r2 .detail")
    assert (row.get_attribute("aria-expanded"), details.is_displayed()) == ("false", False)
    row.send_keys(Keys.SPACE)
    assert (row.get_attribute("aria-expanded"), details.is_displayed()) == ("true", True)
    assert f"{LONG}: 1" in details.text
    assert "command line" in details.text
    row.send_keys(Keys.ENTER)
    assert not details.is_displayed()


def test_text_and_strategy_filter_rows_and_their_figures(opened):
    browser = opened(1400)
    text, count = (browser.find_element("id", name) for name in ("text", "count"))
    assert count.text == "6 rows"
    text.send_keys("ER 500")
    assert names(browser) == ["d4"]
    assert count.text == "1 of 6 rows"
    assert not [f for f in browser.find_elements("css selector", "figure[data-row]") if f.is_displayed()]
    text.clear()
    text.send_keys("b2b2b2")
    assert names(browser) == ["b2"]
    seen = [f for f in browser.find_elements("css selector", "figure[data-row]") if f.is_displayed()]
    assert [f.get_attribute("data-row") for f in seen] == ["b1r3", "b1r3"]
    text.clear()
    browser.find_element("css selector", "#strategy option:nth-child(2)").click()
    assert names(browser) == ["a1", "d4"]
    text.send_keys("diverged")
    assert names(browser) == ["d4"]


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_no_wider_than_the_window(opened, width):
    browser = opened(width)
    for button in browser.find_elements("css selector", ".name button"):
        browser.execute_script("arguments[0].click()", button)
    browser.execute_script("document.querySelectorAll('[data-take=large]').forEach(b => b.click())")
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    needed, there = browser.execute_script(
        "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
    )
    assert needed <= there <= width


def test_paper_is_dark_where_the_reader_wants_it(opened):
    browser = opened(1400)

    def colours(scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        script = """const body = getComputedStyle(document.body);
            return [body.backgroundColor, body.color, getComputedStyle(document.querySelector("svg text")).fill]"""
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in browser.execute_script(script)]

    paper, ink, words = colours("light")
    assert paper > 700 > 100 > ink == words
    paper, ink, words = colours("dark")
    assert paper < 100 < 600 < ink == words


def test_figures_and_configurations_can_be_taken_away(opened, folder):
    browser = opened(1400)
    browser.execute_script(
        "window.saved = []; HTMLAnchorElement.prototype.click = function () { saved.push([this.download, this.href]); }"
    )
    for kind in ("svg", "png"):
        browser.find_element("css selector", f"figure [data-take={kind}]").click()
    browser.set_script_timeout(60)
    wait = "const done = arguments[0], look = () => saved.length < 2 ? setTimeout(look, 50) : done(saved); look()"
    (svg, drawn), (png, picture) = browser.execute_async_script(wait)
    assert (svg, png) == ("toy-cost.svg", "toy-cost.png")
    assert drawn.startswith("data:image/svg+xml;charset=utf-8,%3Csvg")
    assert picture.startswith("data:image/png;base64,")
    assert len(picture) > 10_000
    browser.execute_script("document.querySelector('#b1r1 [data-config]').click()")
    name, text = browser.execute_script(
        "return [saved[2][0], decodeURIComponent(saved[2][1].split(',').slice(1).join(','))]"
    )
    assert name == "config.yaml"
    assert text == next(folder.glob("toy/joint/*/seed-0/config.yaml")).read_text()
