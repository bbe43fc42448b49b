"""The page of the admin port in headless Chromium: asks, watches cost and speed count and the cost stand as it is in the books, stops an
answer by the Escape key, by keyboard alone, shows a key where one is asked for, and asks nothing of any other site. Screenshots go to
build/cpu/page-{light,dark,narrow}.png; README.md shows the light one, deploy/examples/page.png.

    python3 tests/end_to_end/page_test.py build/cpu
"""
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error

from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from observed_service import free_port, get, root, start_process, wait_for

build = pathlib.Path(sys.argv[1])
program = build / "service" / "tuppence"
record = "Order 48213: status shipped; carrier DHL; expected 14 March 2026; items 2; total 39.90 EUR"


class Service:
    """A running service on ports of its own, with a usage store."""

    def __init__(self, folder, model, *flags):
        self.admin_port = free_port()
        self.site = f"http://127.0.0.1:{self.admin_port}"
        self.store = pathlib.Path(folder) / f"usage-{self.admin_port}.db"
        self.process = start_process(
            [program, "serve", "--model", model, "--port", "0", "--admin-port", str(self.admin_port), "--price-per-hour", "0.5",
             "--usage-store", self.store, "--log-level", "error", *flags], stdout=subprocess.DEVNULL)
        wait_for("the service is ready", self.is_ready, 60)

    def is_ready(self):
        assert self.process.poll() is None, "the service ended while it started"
        try:
            return get(self.site + "/readyz") == "ok\n"
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, "the service did not end well"

    def rows(self):
        """The finished requests in the books, the oldest first."""
        exported = subprocess.run([program, "store", "export", self.store], check=True, text=True, stdout=subprocess.PIPE).stdout
        return [line for line in map(json.loads, exported.splitlines()) if line["type"] == "request"]


def open_browser(scheme, width=1000, height=1250):
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
                 f"--window-size={width},{height}", "--force-device-scale-factor=1"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(service=Driver("/usr/bin/chromedriver"), options=options)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
    return browser


def text(browser, name):
    return browser.find_element(By.ID, name).text


def sites_asked(browser):
    """The origins of all requests that the page made."""
    asked = set()
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if url.startswith(("http:", "https:", "ws:", "wss:")):
                asked.add(re.match(r"\w+://[^/]+", url)[0])
    return asked


def contrast(browser, name):
    """Of an element's text on what lies behind it, as WCAG 2 defines it."""
    return browser.execute_script("""
        const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = c.slice(0, 3).map((x) => { x /= 255;
          return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
          return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const element = document.getElementById(arguments[0]);
        let behind = element;
        while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
        const a = light(rgb(getComputedStyle(element).color));
        const b = light(rgb(getComputedStyle(behind || document.body).backgroundColor));
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);""", name)


def ask(browser, question):
    browser.find_element(By.ID, "question").send_keys(question, Keys.ENTER)


def answers_with_its_price(browser, service):
    wait_for("the page shows the machine's state", lambda: text(browser, "ready") == "ready", 30)
    wait_for("the machine at rest, with its price", lambda: text(browser, "running") == "0" and text(browser, "rate") == "0.500", 30)
    assert text(browser, "waiting") == "0" and re.fullmatch(r"\d+ %", text(browser, "kv")), (text(browser, "waiting"), text(browser, "kv"))
    browser.find_element(By.TAG_NAME, "summary").click()
    browser.find_element(By.ID, "system").send_keys(record)
    browser.find_element(By.TAG_NAME, "summary").click()
    before = len(service.rows())
    ask(browser, "Where is my order 48213?")
    wait_for("the answer's cost", lambda: text(browser, "cost-note") == "As it stands in the books.", 30)
    cost = float(text(browser, "cost").removeprefix("$"))
    wait_for("the answer is in the books", lambda: len(service.rows()) == before + 1, 30)
    booked = service.rows()[-1]
    assert round(cost * 1e9) == booked["cost_nanousd"], f"{cost} is shown, {booked} booked"
    said = browser.find_elements(By.CSS_SELECTOR, "#talk .text")[-1].text
    assert "DHL" in said and "14 March 2026" in said, said
    assert float(text(browser, "speed")) > 0, text(browser, "speed")
    wait_for("the idle share, which two looks at the state make", lambda: text(browser, "idle").endswith("%"), 30)
    assert browser.execute_script("return document.activeElement.id") == "question", "the next question cannot be typed at once"
    assert said in browser.find_element(By.ID, "announce").get_attribute("textContent"), "a screen reader is not told"


def counts_tokens_live(browser, service):
    """The service runs in short pulses, so that an answer takes as long as it takes to look at the page."""
    def pulse():
        service.process.send_signal(signal.SIGCONT)
        time.sleep(0.004)
        service.process.send_signal(signal.SIGSTOP)
        time.sleep(0.15)  # longer than the page takes to show anew
        return text(browser, "speed").startswith("≈")
    service.process.send_signal(signal.SIGSTOP)
    ask(browser, "Where is my order 48213?")
    wait_for("the speed of an answer that is not whole", pulse, 60)
    assert float(text(browser, "speed").removeprefix("≈ ")) > 0 and text(browser, "tokens").startswith("≈ "), text(browser, "tokens")
    service.process.send_signal(signal.SIGCONT)
    wait_for("the answer is whole", lambda: text(browser, "cost-note") == "As it stands in the books.", 30)
    assert not text(browser, "speed").startswith("≈")


def shows_a_key(browser, service, key):
    browser.get(service.site)
    wait_for("the page shows the machine's state without a key", lambda: text(browser, "ready") == "ready", 30)
    ask(browser, "Where is my order 48213?")
    wait_for("the page says that a key is missing", lambda: "key" in text(browser, "problem"), 30)
    field = browser.find_element(By.ID, "key")
    assert field.is_displayed() and field.get_attribute("type") == "password", "where to put it is to be seen, and the key is not"
    field.send_keys(key)
    browser.find_element(By.ID, "question").send_keys(Keys.ENTER)  # what was asked is still there
    wait_for("an answer with the key", lambda: text(browser, "cost-note") == "As it stands in the books.", 30)
    assert text(browser, "problem") == ""
    wait_for("the answer is in the books of the key's tenant", lambda: [row["tenant"] for row in service.rows()] == ["shop"], 30)
    stored = browser.execute_script("return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert stored == json.dumps([{}, {}, "", service.site + "/"], separators=(",", ":")), stored


def stops_by_escape(browser, service):
    service.process.send_signal(signal.SIGSTOP)  # so that the answer takes as long as the test needs
    ask(browser, "Where is my order 1?")
    wait_for("the cost counts", lambda: "≈" in text(browser, "cost"), 30)
    first = text(browser, "cost")
    wait_for("the cost counts up", lambda: text(browser, "cost") > first, 30)
    browser.find_element(By.ID, "question").send_keys(Keys.ESCAPE)
    wait_for("Escape stops the answer", lambda: text(browser, "cost-note").startswith("Stopped"), 30)
    service.process.send_signal(signal.SIGCONT)
    wait_for("nothing runs any more", lambda: json.loads(get(service.site + "/status"))["requests_open"] == 0, 30)


def is_usable_by_all(browser, scheme):
    unnamed = browser.execute_script("""
        return [...document.querySelectorAll("textarea, input, button, summary")].filter((element) => element.tagName === "BUTTON" ||
          element.tagName === "SUMMARY" ? !element.textContent.trim() : !element.labels.length).map((element) => element.id);""")
    assert not unnamed, f"without a label: {unnamed}"
    for name in ("cost", "cost-note", "model", "keys", "send", "talk", "ready"):
        assert contrast(browser, name) >= 4.5, f"{name}, {scheme}: contrast {contrast(browser, name):.2f}"


def fits_a_narrow_screen(browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 320, "height": 1500, "deviceScaleFactor": 1, "mobile": False})
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 320, f"{wide} pixels wide on a screen of 320"


def asks_nobody_else(browser, service):
    assert sites_asked(browser) == {service.site}, sites_asked(browser)
    complaints = [line["message"] for line in browser.get_log("browser") if "favicon" not in line["message"]]
    assert not complaints, complaints


with tempfile.TemporaryDirectory() as folder:
    with Service(folder, root / "deploy" / "demo_model" / "checkpoint") as service:
        for scheme in ("light", "dark"):
            browser = open_browser(scheme)
            try:
                browser.get(service.site)
                answers_with_its_price(browser, service)
                is_usable_by_all(browser, scheme)
                browser.save_screenshot(str(build / f"page-{scheme}.png"))
                counts_tokens_live(browser, service)
                stops_by_escape(browser, service)
                fits_a_narrow_screen(browser)
                browser.save_screenshot(str(build / "page-narrow.png"))
                asks_nobody_else(browser, service)
            finally:
                browser.quit()
            print(f"  {scheme}: answered with the price that is in the books, stopped by Escape, asked nobody else")
    keys = pathlib.Path(folder) / "keys.json"
    key = subprocess.run([program, "key", "add", keys, "--tenant", "shop"], check=True, text=True, capture_output=True).stdout.strip()
    with Service(folder, root / "deploy" / "demo_model" / "checkpoint", "--keys", keys) as service:
        browser = open_browser("light")
        try:
            shows_a_key(browser, service, key)
        finally:
            browser.quit()
        print("  keys: asked for, shown, in nobody's memory but the page's")
    with Service(folder, "null", "--page", "off") as service:
        body = get(service.site + "/")
        assert "<html" not in body and "/status" in body, body
        try:
            get(service.site + "/page.js")
            raise AssertionError("the page's script is there without the page")
        except urllib.error.HTTPError as error:
            assert error.code == 404, error
        print("  off: no page")
print("page_test: passed")
