"""The report in a real browser: it opens fast, draws every chart, follows the keyboard, fits a phone
and asks nobody for anything. Skipped only where the machine has no Chromium.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.page import write_report
from tests.support.journals import write_sweep

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPEN_SECONDS = 2.0
BASELINES = {"nearest training row": {"metrics": {"test/exact_match": 0.63}}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    with api.sync_playwright() as playwright:
        try:
            opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


class Tab:
    """A page that is open, with what it has complained of and asked for."""

    def __init__(self, browser: Any, file: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def seconds(self) -> float:
        return (
            self.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
        )

    def draw_all(self) -> int:
        charts = self.page.locator("[data-chart]")
        for number in range(charts.count()):
            charts.nth(number).scroll_into_view_if_needed()
            self.page.wait_for_selector(
                f"[data-chart='{charts.nth(number).get_attribute('data-chart')}'][data-drawn]"
            )
        return charts.count()


@pytest.mark.parametrize("count", [8, 100, 500])
def test_it_opens_fast_and_draws_every_chart(browser: Any, tmp_path: Path, count: int) -> None:
    file = write_report(write_sweep(tmp_path / "a", count, faulty=count > 8, baselines=BASELINES))
    tabs = [Tab(browser, file) for _ in range(3)]
    assert min(tab.seconds() for tab in tabs) < OPEN_SECONDS, "other work only adds to it"
    assert tabs[0].draw_all() == 9
    assert tabs[0].complaints == []
    assert [address for address in tabs[0].requests if not address.startswith("file:")] == []
    assert tabs[0].page.title() == "Sweep a"
    for tab in tabs:
        tab.context.close()


def test_every_axis_names_its_unit(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, write_report(write_sweep(tmp_path / "a", 30, baselines=BASELINES)))
    tab.draw_all()
    for name in ("leaderboard", "curves", "effect", "mix", "cost"):
        option = tab.page.evaluate(
            f"(() => {{ const o = echarts.getInstanceByDom(document.getElementById('chart-{name}')).getOption(); return [o.xAxis[0].name, o.yAxis[0].name]; }})()"
        )
        assert all(option), (name, option)
        assert any("share of rows, 0 to 1" in axis for axis in option), option
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, tmp_path: Path, scheme: str) -> None:
    file = write_report(write_sweep(tmp_path / "a", 30, faulty=True, baselines=BASELINES))
    tab = Tab(browser, file, viewport={"width": 375, "height": 700}, color_scheme=scheme)
    tab.draw_all()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    background = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    tab.page.click("#theme")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != background
    assert tab.complaints == []
    tab.context.close()


def test_the_keyboard_reaches_charts_tables_and_trials(browser: Any, tmp_path: Path) -> None:
    tab = Tab(browser, write_report(write_sweep(tmp_path / "a", 30, baselines=BASELINES)))
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    tab.page.focus("#chart-leaderboard")
    tab.page.wait_for_selector("#chart-leaderboard[data-drawn]")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("ArrowDown")
    assert tab.page.get_attribute("#chart-leaderboard", "data-cursor") == "1"
    tab.page.keyboard.press("Enter")
    marked = tab.page.locator("#marked")
    assert marked.is_visible() and "trial" in marked.inner_text()
    assert tab.page.locator("table.trials tr.marked").count() == 1
    tab.page.keyboard.press("Escape")
    assert not marked.is_visible()
    tab.page.focus("table.trials th:nth-child(6) button")
    tab.page.keyboard.press("Enter")
    steps = tab.page.locator("table.trials td:nth-child(6)").all_inner_texts()
    assert [int(step) for step in steps] == sorted(int(step) for step in steps)
    assert tab.complaints == []
    tab.context.close()


def test_dragging_along_an_axis_keeps_the_trials_within(browser: Any, tmp_path: Path) -> None:
    tab = Tab(
        browser,
        write_report(write_sweep(tmp_path / "a", 30)),
        viewport={"width": 1200, "height": 900},
    )
    chart = tab.page.locator("#chart-parallel")
    chart.scroll_into_view_if_needed()
    tab.page.wait_for_selector("#chart-parallel[data-drawn]")
    box = chart.bounding_box()
    tab.page.mouse.move(box["x"] + 70, box["y"] + 60)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 70, box["y"] + 160, steps=8)
    tab.page.mouse.up()
    active = tab.page.evaluate(
        "echarts.getInstanceByDom(document.getElementById('chart-parallel')).getModel().getSeriesByIndex(0).getRawIndicesByActiveState('active').length"
    )
    inactive = tab.page.evaluate(
        "echarts.getInstanceByDom(document.getElementById('chart-parallel')).getModel().getSeriesByIndex(0).getRawIndicesByActiveState('inactive').length"
    )
    assert active and inactive
    tab.context.close()


@pytest.mark.parametrize("width", [375, 1280])
def test_every_trial_and_slice_has_room_for_its_label(
    browser: Any, tmp_path: Path, width: int
) -> None:
    file = write_report(write_sweep(tmp_path / "a", 100, baselines=BASELINES))
    tab = Tab(browser, file, viewport={"width": width, "height": 800})
    tab.draw_all()
    for name in ("leaderboard", "slices"):
        rows, height = tab.page.evaluate(
            f"(() => {{ const e = document.getElementById('chart-{name}'); return [echarts.getInstanceByDom(e).getOption().yAxis[0].data.length, e.clientHeight]; }})()"
        )
        assert rows >= 20 and height / rows >= 17, (name, rows, height)
    nav = tab.page.locator("nav")
    if width > 1000:
        assert nav.evaluate("e => e.scrollWidth <= e.clientWidth"), "every section is named"
    tab.context.close()
