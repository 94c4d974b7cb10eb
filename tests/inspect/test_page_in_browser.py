"""The page of a thread in a real browser: drawn, clicked, dark, narrow, and closed to the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from deltamem_agents.inspect.course import Course, course
from deltamem_agents.inspect.page import write_page
from deltamem_agents.inspect.trace import trace_writes
from tests.inspect.browser import SHIFT, Browser


class Written(NamedTuple):
    """A page in a folder, and what it shows."""

    path: Path
    seen: Course


@pytest.fixture(scope="module")
def page(stored, tmp_path_factory: pytest.TempPathFactory) -> Written:
    seen = course(stored.saver, "nora")
    place = tmp_path_factory.mktemp("page") / "thread.html"
    trace = trace_writes(stored.model, list(seen.messages))
    return Written(write_page(place, seen, trace, compare=(0, 4)), seen)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def apart(browser: Browser) -> tuple[float, int]:
    """What the page says of the two that it compares: their distance and the tokens between."""
    told = browser.value("document.getElementById('told').textContent")
    found = re.match(r"The two are ([\d.e+-]+) apart; ([+-]\d+) tokens read", told)
    assert found is not None, told
    return float(found[1]), int(found[2])


def expected(seen: Course, start: int, end: int) -> tuple[float, int]:
    change = seen.points[end].memory.diff(seen.points[start].memory)
    return pytest.approx(change.norm, rel=0.01), change.tokens


def pixels(picture: Path) -> np.ndarray:
    return np.asarray(Image.open(picture).convert("RGB")).astype(int)


def test_the_page_draws_every_layer_and_compares_the_two_asked_for(
    browser: Browser, page: Written, tmp_path: Path
) -> None:
    browser.open(page.path)
    layers = page.seen.last.memory.state.shape[0]
    assert browser.value("document.querySelectorAll('#maps canvas').length") == 3 * layers
    assert browser.value("document.querySelectorAll('option').length") == 2 * len(page.seen.points)
    assert apart(browser) == expected(page.seen, 0, 4)
    captions = browser.value("[...document.querySelectorAll('figcaption')].map(e => e.textContent)")
    for layer, norm in enumerate(page.seen.points[0].memory.layer_norms):
        told = re.fullmatch(rf"layer {layer}: (\S+)", captions[3 * layer])
        assert told is not None
        assert float(told[1]) == pytest.approx(norm, rel=0.01)
    shown = pixels(browser.picture(tmp_path / "page.png"))
    red, green, blue = shown[..., 0], shown[..., 1], shown[..., 2]
    assert ((red - blue > 100) & (red - green > 60)).sum() > 2000
    assert ((blue - red > 60) & (blue > 120)).sum() > 2000


def test_a_click_on_the_timeline_shows_that_memory_and_a_shift_click_compares_from_it(
    browser: Browser, page: Written
) -> None:
    browser.open(page.path)
    marked = "document.querySelector('.point.{}').dataset.point"
    assert (browser.value(marked.format("a")), browser.value(marked.format("b"))) == ("0", "4")
    browser.click('.point[data-point="2"]')
    assert apart(browser) == expected(page.seen, 0, 2)
    browser.click('.point[data-point="1"]', modifiers=SHIFT)
    assert apart(browser) == expected(page.seen, 1, 2)
    assert (browser.value(marked.format("a")), browser.value(marked.format("b"))) == ("1", "2")
    chosen = "[...document.querySelectorAll('select')].map(e => e.selectedIndex)"
    assert browser.value(chosen) == [1, 2]
    browser.value("b.value = '3'; b.dispatchEvent(new Event('change'))")  # and by its list
    assert apart(browser) == expected(page.seen, 1, 3)


def test_a_link_of_a_fact_leads_to_the_message_that_said_it(
    browser: Browser, page: Written
) -> None:
    browser.open(page.path)
    browser.click('a[href="#message-1"]')
    assert "4711" in browser.value("document.querySelector('.message:target').textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_both_schemes(
    browser: Browser, page: Written, dark: bool
) -> None:
    """WCAG's contrast: 4.5 for text; the ground of a token is its own over that of its message."""
    browser.open(page.path, dark=dark)
    ground = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (luminance(rgba(ground)) < 0.05) is dark
    places = browser.value(
        "[...document.querySelectorAll('h1, p, td, .role, .message span, figcaption, .small')]"
        ".filter(e => e.textContent.trim()).map(e => { const grounds = [];"
        "for (let at = e; at; at = at.parentElement)"
        " grounds.unshift(getComputedStyle(at).backgroundColor);"
        "return [e.textContent, getComputedStyle(e).color, grounds]; })"
    )
    assert len(places) > 50
    weak = [
        (text, round(ratio, 2))
        for text, colour, grounds in places
        if (ratio := contrast(rgba(colour), over(grounds))) < 4.5
    ]
    assert weak == []


def test_a_narrow_window_scrolls_downwards_only(browser: Browser, page: Written) -> None:
    browser.open(page.path, width=390, height=800)
    root = "document.documentElement"
    assert browser.value(f"{root}.scrollWidth") == browser.value(f"{root}.clientWidth") == 390
    wide = browser.value(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('#timeline, .wide')"
        " && e.getBoundingClientRect().right > innerWidth).map(e => e.tagName)"
    )
    assert wide == []
    course = "document.getElementById('timeline')"
    assert browser.value(f"{course}.scrollWidth > {course}.clientWidth")
    newest = "document.querySelector('.point:last-of-type').getBoundingClientRect()"
    assert 0 < browser.value(f"{newest}.left") < browser.value(f"{newest}.right") < 390


def test_the_page_asks_for_nothing_and_breaks_no_rule_of_its_own(
    browser: Browser, page: Written
) -> None:
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(page.path)
    assert browser.requests == [page.path.as_uri()]
    assert browser.complaints == []


def test_its_policy_stops_every_script_style_and_request_that_is_not_its_own(
    browser: Browser, page: Written, tmp_path: Path
) -> None:
    foreign = (
        "<script>document.title = 'run'</script><style>h1 { color: rgb(1, 2, 3) }</style>"
        "<p id='styled' style='color: rgb(1, 2, 3)' onclick='document.title = 1'>x</p>"
        "<img src='data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA='>"
        "<script src='https://example.org/x.js'></script>"
    )
    changed = tmp_path / "changed.html"
    changed.write_text(
        page.path.read_text("utf-8").replace("</body>", f"{foreign}</body>"), "utf-8"
    )
    browser.complaints.clear()
    browser.open(changed)
    browser.click("#styled")
    assert browser.value("document.title") == "Thread nora"
    for selector in ("h1", "#styled"):
        colour = f"getComputedStyle(document.querySelector('{selector}')).color"
        assert browser.value(colour) != "rgb(1, 2, 3)"
    refused = " ".join(browser.complaints)
    for directive in ("script-src", "style-src", "default-src"):
        assert directive in refused
    assert apart(browser) == expected(page.seen, 0, 4)  # its own script ran


def rgba(text: str) -> tuple[float, ...]:
    numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
    return (*numbers[:3], numbers[3] if len(numbers) > 3 else 1.0)


def over(grounds: list[str]) -> tuple[float, ...]:
    """The colour of grounds laid over each other, the lowest first, on white paper."""
    seen: tuple[float, ...] = (255.0, 255.0, 255.0)
    for *colour, share in map(rgba, grounds):
        seen = tuple(share * new + (1 - share) * old for new, old in zip(colour, seen, strict=True))
    return seen


def luminance(colour: tuple[float, ...]) -> float:
    red, green, blue = (
        c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for value in colour[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(ink: tuple[float, ...], ground: tuple[float, ...]) -> float:
    low, high = sorted((luminance(ink), luminance(ground)))
    return (high + 0.05) / (low + 0.05)
