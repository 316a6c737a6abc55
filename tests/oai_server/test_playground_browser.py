"""The built-in page in a real headless Chromium: chat streams, stop works, the panel moves, a phone's width fits."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.server_process import demo_server

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium or chromedriver is not installed")
SCREENSHOTS = os.environ.get("SCREENSHOTS")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with demo_server() as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, url: str) -> webdriver.Chrome:
    browser.set_window_size(1280, 900)
    browser.get(url)
    until(lambda: text(browser, "#model") not in ("", "connecting"))
    return browser


def until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing came of it"
        time.sleep(0.05)


def text(page: webdriver.Chrome, selector: str) -> str:
    return str(page.find_element(By.CSS_SELECTOR, selector).text)


def shown(page: webdriver.Chrome, selector: str) -> bool:
    return bool(page.find_element(By.CSS_SELECTOR, selector).is_displayed())


def say(page: webdriver.Chrome, words: str) -> None:
    page.find_element(By.ID, "input").send_keys(words, Keys.ENTER)


def begin_a_long_answer(page: webdriver.Chrome) -> None:
    """Of 1 900 tokens: the model can count, but not that far, and does not find an end."""
    page.find_element(By.ID, "show-settings").click()
    limit = page.find_element(By.ID, "max_tokens")
    limit.clear()
    limit.send_keys("1900")
    page.find_element(By.ID, "temperature").send_keys("0")
    say(page, "Count from 100 to 999.")
    until(lambda: shown(page, "#stop-button") and text(page, "#messages li.assistant > .body"))


def picture(page: webdriver.Chrome, name: str) -> None:
    if SCREENSHOTS:
        page.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))


def pixels(page: webdriver.Chrome, canvas: str) -> str:
    return str(page.execute_script(f"return document.getElementById('{canvas}').toDataURL()"))


def test_a_chat_streams_and_the_panel_moves(page: webdriver.Chrome) -> None:
    until(lambda: text(page, "#health") == "ready")
    until(lambda: "of" in text(page, "#kv-text"))
    before = pixels(page, "rate-chart")
    say(page, "Count from 3 to 12.")
    until(lambda: "tokens" in text(page, "#messages li.assistant .meta"))
    assert text(page, "#messages li.assistant > .body")
    assert "first after" in text(page, "#messages li.assistant .meta")
    until(lambda: pixels(page, "rate-chart") != before)
    until(lambda: "ms" in text(page, "#ttft-text"))
    picture(page, "chat")


def test_stop_ends_the_answer_and_the_engine_is_free(page: webdriver.Chrome) -> None:
    begin_a_long_answer(page)
    page.find_element(By.ID, "stop-button").click()
    until(lambda: shown(page, "#send"))
    until(lambda: text(page, "#running") == "0" or text(page, "#running") == "0.0")


def test_a_new_chat_forgets_the_answer_that_was_still_coming(page: webdriver.Chrome) -> None:
    begin_a_long_answer(page)
    page.find_element(By.ID, "clear").click()
    until(lambda: shown(page, "#send"))
    page.find_element(By.ID, "input").send_keys("Hi")
    until(lambda: '"content": "Hi"' in text(page, "#snippet"))
    assert '"role": "assistant"' not in text(page, "#snippet")


def test_code_is_shown_as_a_block(page: webdriver.Chrome) -> None:
    page.execute_script("document.getElementById('temperature').value = 0")
    say(page, "Write a function in Python that adds two numbers.")
    until(lambda: "tokens" in text(page, "#messages li.assistant .meta"))
    assert text(page, "#messages li.assistant > .body pre").startswith("def ")
    assert "```" not in text(page, "#messages li.assistant > .body")


def test_the_request_is_shown_as_curl_and_python(page: webdriver.Chrome, url: str) -> None:
    page.find_element(By.ID, "show-settings").click()
    page.find_element(By.ID, "input").send_keys("Hi")
    until(lambda: '"content": "Hi"' in text(page, "#snippet"))
    assert text(page, "#snippet").startswith(f"curl -N {url}/v1/chat/completions")
    page.find_element(By.ID, "tab-python").click()
    until(lambda: "from openai import OpenAI" in text(page, "#snippet"))
    compile(text(page, "#snippet"), "snippet", "exec")
    picture(page, "settings")


def test_model_output_is_text_never_html(page: webdriver.Chrome) -> None:
    say(page, "<img src=x onerror=document.title='broken'> <b>bold</b>")
    until(lambda: "tokens" in text(page, "#messages li.assistant .meta"))
    assert "<b>bold</b>" in text(page, "#messages li.user > .body")
    assert page.title != "broken"


def test_it_fits_a_phone_and_the_dark(page: webdriver.Chrome, url: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    page.set_window_size(500, 850)
    page.get(url)
    until(lambda: text(page, "#model") not in ("", "connecting"))
    width = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], "the page scrolls sideways"
    say(page, "Hello! Who are you?")
    until(lambda: "tokens" in text(page, "#messages li.assistant .meta"))
    picture(page, "phone-dark")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_nothing_was_blocked_or_failed(page: webdriver.Chrome) -> None:
    problems = [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]
    assert problems == []
