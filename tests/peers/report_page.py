"""Opens a report's page in Chromium as a person would: pictures of it in light, dark, on a phone and on
paper, and how long it takes. Fails on an error of the page or a request that leaves the report's folder.

    python tests/peers/report_page.py REPORT [--shots FOLDER] [--browser PATH] [--serve]
"""

import argparse
import functools
import http.server
import json
import shutil
import threading
import time
from pathlib import Path

from playwright.sync_api import sync_playwright


def served(folder):
    """The folder's address on a web server of this machine."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def watched(page, base):
    """What goes wrong on the page."""
    faults = []
    page.on("console", lambda m: m.type in ("error", "warning") and faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.on("requestfailed", lambda r: faults.append(f"failed: {r.url}"))
    page.on("request", lambda r: r.url.startswith(base) or faults.append(f"outside: {r.url}"))
    return faults


def use(page, times):
    """The viewer by keyboard and pointer."""
    rows = page.locator(".scroller .line")
    assert rows.count() > 0

    def timed(name, act):
        start = time.perf_counter()
        act()
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        times[name] = round(1000 * (time.perf_counter() - start))

    orders = page.locator('.filters [name="sort"] option').evaluate_all("all => all.map(o => o.value)")
    if len(orders) > 1:
        timed("sort ms", lambda: page.select_option('.filters [name="sort"]', orders[1]))
        timed("one by one ms", lambda: page.locator('.layout input[value="true"]').check())
        timed("side by side ms", lambda: page.locator('.layout input[value="false"]').check())
        timed("unsort ms", lambda: page.select_option('.filters [name="sort"]', ""))
    sets = page.locator('.filters [name="set"] option').evaluate_all("all => all.map(o => o.value)")
    if len(sets) > 2:
        timed("filter ms", lambda: page.select_option('.filters [name="set"]', sets[1]))
        timed("unfilter ms", lambda: page.select_option('.filters [name="set"]', ""))
    jump = "part => { const s = document.querySelector('.scroller'); s.scrollTop = part * s.scrollHeight; }"
    timed("jump ms", lambda: page.evaluate(jump, 0.5))
    page.wait_for_timeout(300)
    timed("back ms", lambda: page.evaluate(jump, 0))
    page.wait_for_timeout(200)
    page.locator(".scroller .tile").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] img").count() == 1
    before = page.locator("dialog .count").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("dialog .count").inner_text() != before
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert page.evaluate("document.activeElement.className") == "tile"


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("report", type=Path)
    options.add_argument("--shots", type=Path)
    options.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    options.add_argument("--serve", action="store_true", help="over HTTP in place of file:")
    options = options.parse_args()
    folder = options.report.resolve()
    base = served(folder) if options.serve else folder.as_uri() + "/"
    faults, times = [], {}
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        wide, phone = {"width": 1360, "height": 900}, {"width": 390, "height": 844}
        for name, size, scheme in [("light", wide, "light"), ("dark", wide, "dark"), ("phone", phone, "light")]:
            page = browser.new_page(viewport=size, color_scheme=scheme, has_touch=name == "phone")
            found = watched(page, base)
            start = time.perf_counter()
            page.goto(base + "index.html")
            page.wait_for_load_state("load")
            page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            times.setdefault("open ms", round(1000 * (time.perf_counter() - start)))
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name}: too wide"
            shots = options.shots

            def shot(what):
                if shots:
                    shots.mkdir(parents=True, exist_ok=True)
                    page.screenshot(path=shots / f"{name}-{what}.png")

            shot("top")
            for part in ("figures", "samples"):
                if page.locator(f"#{part}:not([hidden])").count():
                    page.evaluate("id => document.getElementById(id).scrollIntoView({ behavior: 'instant' })", part)
                    page.wait_for_timeout(600)
                    shot(part)
            if page.locator(".scroller .tile").count():
                if name == "light":
                    use(page, times)
                page.locator(".scroller .tile").nth(1).click()
                page.wait_for_timeout(300)
                shot("image")
                page.keyboard.press("Escape")
            if shots and name == "light":
                page.pdf(path=shots / "paper.pdf", print_background=True)
            heap = page.evaluate("performance.memory ? performance.memory.usedJSHeapSize : 0")
            times.setdefault("heap MB", round(heap / 1e6))
            faults += [f"{name}: {fault}" for fault in found]
            page.close()
        browser.close()
    files = [f.stat().st_size for f in folder.joinpath("page").rglob("*") if f.is_file()]
    print(json.dumps({**times, "page files": len(files), "page MB": round(sum(files) / 1e6, 1)}))
    for fault in faults:
        print(fault)
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
