"""The report's page in a browser: it draws its charts, requests nothing, and complains about nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maang_cli.render.report import BAR
from tests import chromium
from tests.chromium import Tab
from tests.test_pipeline import TICKERS
from tests.test_report import EARLY, HOSTILE, Told, told

__all__ = ["told"]

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="needs Chromium: apt-get install chromium")


TOOLTIP = (
    "new Promise(done => { const look = () => { const found = document.querySelector('#vg-tooltip-element.visible');"
    " found ? done(found.innerText) : requestAnimationFrame(look); }; look(); })"
)
"""The text of the tooltip, when it is there."""


@pytest.fixture(scope="module")
def file(told: Told, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(told.page, "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    with chromium.browser() as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab, file: Path) -> Tab:
    """The page, 1,440 pixels wide, in light mode."""
    browser.requests.clear()
    browser.complaints.clear()
    browser.resize(1440)
    browser.emulate()
    browser.open(file)
    return browser


def marks(tab: Tab, chart: str, group: str) -> list[int]:
    """How many marks each group of this class has, in the chart of this selector."""
    found: list[int] = tab.evaluate(
        f"[...document.querySelectorAll('figure{chart} g.{group}')].map(group => group.childElementCount)"
    )
    return found


def cells(tab: Tab, selector: str) -> list[list[str]]:
    """A table's rows."""
    found: list[list[str]] = tab.evaluate(
        f"[...document.querySelectorAll('{selector} tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return found


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_draws_its_charts_without_a_request_or_a_complaint(
    browser: Tab, told: Told, file: Path, width: int, scheme: str
) -> None:
    browser.requests.clear()
    browser.complaints.clear()
    browser.resize(width)
    browser.emulate(scheme=scheme)
    browser.open(file)
    charts = ["calendar", *["prices"] * len(told.report.prices), "checks", "latency"]
    assert browser.evaluate("[...document.querySelectorAll('figure.chart')].map(each => each.dataset.chart)") == charts
    assert browser.evaluate("[...document.querySelectorAll('figure.chart')].every(each => each.querySelector('svg path'))")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.requests == [file.as_uri()]
    assert browser.complaints == []


def test_dark_mode_has_dark_colours(tab: Tab) -> None:
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    line = "getComputedStyle(document.querySelector('figure[data-chart=calendar] svg text')).fill"
    light = [tab.evaluate(colour), tab.evaluate(line)]
    tab.emulate(scheme="dark")
    dark = [tab.evaluate(colour), tab.evaluate(line)]
    assert light == ["rgb(255, 255, 255)", "rgb(27, 31, 36)"]
    assert dark == ["rgb(13, 17, 23)", "rgb(230, 237, 243)"]
    tab.emulate("print", "dark")
    assert [tab.evaluate(colour), tab.evaluate(line)] == light, "paper is white"


def test_each_row_of_the_tables_is_a_mark(tab: Tab, told: Told) -> None:
    assert sum(marks(tab, "[data-chart=calendar]", "mark-rect.role-mark")) == len(told.report.days)
    for prices in told.report.prices:
        chart = f"[data-ticker={prices.ticker}]"
        bars, split = len(prices.bars), sum(mark.kind == "split" for mark in prices.marks)
        # the wicks, the splits, what is pointed at; the candles and the volumes
        assert [number for number in marks(tab, chart, "mark-rule.role-mark") if number] == [bars, *[split] * bool(split), bars]
        assert marks(tab, chart, "mark-rect.role-mark") == [bars, bars]
        assert sum(marks(tab, chart, "mark-symbol.role-mark")) == len(prices.marks)
    assert marks(tab, "[data-chart=checks]", "mark-symbol.role-mark") == [len(told.report.findings)]
    assert marks(tab, "[data-chart=latency]", "mark-symbol.role-mark") == [len(told.report.delays)]


def test_tables_say_what_the_tables_say(tab: Tab, told: Told) -> None:
    findings = [
        [str(row["date"]), row["ticker"], row["name"], row["outcome"], row["found"], row["before"] or "", row["after"] or ""]
        for row in told.report.findings
    ]
    assert [row[:7] for row in cells(tab, "#findings")] == findings
    revisions = [
        [str(row["date"]), row["ticker"], row["name"], row["outcome"], str(row["before"] or "NULL"), str(row["after"] or "NULL")]
        for row in told.report.revisions
    ]
    assert [row[:6] for row in cells(tab, "section[aria-labelledby=revisions]")] == revisions


def test_numbers_of_a_chart_can_be_shown(tab: Tab, told: Told) -> None:
    for prices in told.report.prices:
        details = f".numbers[data-ticker={prices.ticker}]"
        tab.evaluate(f"new Promise(done => {{ const found = document.querySelector('{details}');"
                     " found.addEventListener('toggle', () => done(0)); found.open = true; })")  # fmt: skip
        shown = [[row[0], *[cell.replace(",", "") for cell in row[1:]]] for row in cells(tab, details)]
        assert shown == [[str(row["date"]), *(number(row[name]) for name in BAR)] for row in reversed(prices.bars)]


def number(value: Any) -> str:
    """As the page prints a number, which has at most four decimals."""
    return "" if value is None else f"{value:f}".rstrip("0").rstrip(".") if "." in str(value) else str(value)


def test_pointing_at_a_session_shows_its_values(tab: Tab, told: Told) -> None:
    [prices] = [each for each in told.report.prices if each.ticker == "META"]
    bar = next(row for row in prices.bars if row["date"] == EARLY)
    tab.evaluate("document.querySelector('figure[data-ticker=META]').scrollIntoView({block: 'center'})")
    number = [row["date"] for row in prices.bars].index(EARLY)
    groups = "document.querySelectorAll('figure[data-ticker=META] g.mark-rule.role-mark')"
    wick = f"{groups}[0].children[{number}].getBoundingClientRect()"
    x, y = tab.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({wick})")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    text = tab.evaluate(TOOLTIP)
    assert str(EARLY) in text
    assert f"{bar['close']:,}" in text
    assert f"{bar['volume']:,}" in text


def test_keys_zoom_and_pan_a_chart(tab: Tab) -> None:
    chart = "document.querySelector('figure[data-ticker=META]')"
    tab.evaluate(f"{chart}.focus()")
    shown = []
    for key in ("+", "ArrowLeft", "ArrowRight", "-", "0"):
        tab.press(key)
        tab.evaluate(f"{chart}.view.view.runAsync().then(() => 0)")
        shown.append(tab.evaluate(f"{chart}.view.view.signal('shown')"))
    zoomed, left, right, wide, every = shown
    assert left[1] - left[0] == pytest.approx(zoomed[1] - zoomed[0])
    assert left[0] < zoomed[0] <= right[0]
    assert wide[1] - wide[0] > right[1] - right[0]
    assert every[0] <= min(first for first, _ in shown)
    assert every[1] >= max(last for _, last in shown)


def test_drag_pans_a_chart_and_buttons_zoom_all(tab: Tab, told: Told) -> None:
    charts = "[...document.querySelectorAll('figure[data-chart=prices]')]"
    shown = f"Promise.all({charts}.map(each => each.view.view.runAsync())).then(() => {charts}.map(each => each.shown))"
    every = tab.evaluate(shown)
    tab.evaluate(f"{charts}[0].focus()")
    tab.press("+")
    zoomed = tab.evaluate(shown)
    assert zoomed[0][0] > every[0][0]
    tab.evaluate(f"{charts}[0].scrollIntoView({{block: 'center'}})")
    x, y = tab.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({charts}[0].getBoundingClientRect())")
    for kind, moved in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60), ("mouseMoved", 0)):
        tab.call("Input.dispatchMouseEvent", type=kind, x=x + moved, y=y, button="left", buttons=1, clickCount=1)
    dragged = tab.evaluate(shown)
    assert dragged[0][0] < zoomed[0][0]
    assert dragged[1:] == every[1:]
    tab.evaluate("document.querySelector('button[data-sessions=\"0\"]').click()")
    assert tab.evaluate(shown) == every


def test_hostile_text_is_text_in_a_tooltip(tab: Tab) -> None:
    tab.evaluate("document.querySelector('figure[data-ticker=AAPL]').scrollIntoView({block: 'center'})")
    mark = "document.querySelector('figure[data-ticker=AAPL] g.mark-symbol.role-mark path').getBoundingClientRect()"
    x, y = tab.evaluate(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({mark})")
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    text = tab.evaluate(TOOLTIP)
    assert HOSTILE in text
    assert tab.evaluate("document.querySelectorAll('#vg-tooltip-element b, #vg-tooltip-element script').length") == 0


def test_each_chart_has_a_text_alternative_and_each_control_can_be_reached_by_keyboard(tab: Tab) -> None:
    figures = "[...document.querySelectorAll('figure')]"
    assert tab.evaluate(f"{figures}.every(each => each.role === 'img' && each.ariaLabel.length > 20)")
    focusable = "a[href], button, summary, [tabindex='0']"
    controls = f"[...document.querySelectorAll(`{focusable}`)].filter(each => each.checkVisibility())"
    assert tab.evaluate(f"{controls}.every(each => (each.focus(), document.activeElement === each))")
    assert tab.evaluate(f"{controls}.filter(each => each.tagName === 'FIGURE').length") == len(TICKERS)


def test_policy_refuses_what_the_page_does_not_have(tab: Tab) -> None:
    violated = tab.evaluate(
        "new Promise(done => { const found = []; document.addEventListener('securitypolicyviolation', event => {"
        " found.push(event.effectiveDirective); if (found.length === 2) done(found.sort()); });"
        " new Image().src = 'http://127.0.0.1:9/x.png'; const script = document.createElement('script');"
        " script.textContent = 'window.foreign = 1'; document.body.append(script); })"
    )
    assert violated == ["img-src", "script-src-elem"]
    assert tab.evaluate("window.foreign === undefined")
    assert [url for url in tab.requests if not url.startswith("file:")] in ([], ["http://127.0.0.1:9/x.png"])
