"""A visitor's browser: Chromium, and the steps that several tests share."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "assets" / "examples" / "large-lesion.png"
STUDY = EXAMPLE.parent / "study-flair.nii.gz"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
VERDICT = "#verdict section.verdict h2"
CAPTION = "#viewer .viewer-caption"
REFUSED = "#verdict .verdict.refused"


@contextmanager
def visiting(browser, url: str, ready: str = "#verdict"):
    """Yield a function that opens a page in a window of a size; afterwards check that nothing failed or came from other hosts.

    Args:
        url: of a server, or of a file, which may request nothing.
        ready: the selector of what is shown once the page is built.
    """
    contexts, errors, hosts = [], [], set()

    def visit(width: int = 1440, height: int = 900, **options):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlparse(request.url).hostname) if request.url.startswith("http") else None)
        page.goto(url)
        page.wait_for_selector(ready)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []
    assert hosts == {urlparse(url).hostname} - {None}


def upload(page, *paths: Path) -> None:
    page.set_input_files("#drop input[type=file]", paths)


def drag(page, path: Path) -> None:
    """Drop a file or a folder of this machine on the page, as a file manager does."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 600, "data": data})


def answer(page, name: str) -> str:
    """The verdict on the input of this name, once it is shown."""
    page.wait_for_selector(f"#current >> text={name}")
    page.wait_for_function(
        "document.querySelector('#viewer .viewer-caption')?.textContent && !document.querySelector('.replacing')"
    )
    return page.inner_text(VERDICT)


# resolves with the seconds from the choice of a file to the frame that shows the answer
ANSWERED = """(name) => { window.answered = new Promise((done) => {
    let start;
    document.addEventListener("change", () => { start = performance.now(); }, { capture: true, once: true });
    new MutationObserver((_, observer) => {
        if (!document.querySelector("#current").textContent.includes(name)) return;
        observer.disconnect();
        requestAnimationFrame(() => done((performance.now() - start) / 1000));
    }).observe(document.body, { subtree: true, childList: true, characterData: true });
}); }"""


def computed_seconds(page) -> float:
    """Seconds that the page's main thread has computed, whatever else shares the processor."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})
    metrics = client.send("Performance.getMetrics")["metrics"]
    client.detach()
    return {metric["name"]: metric["value"] for metric in metrics}["TaskDuration"]


def answer_seconds(page, path: Path) -> float:
    """Upload a slice; return the seconds until its answer is shown."""
    page.evaluate(ANSWERED, path.name)
    upload(page, path)
    return page.evaluate("window.answered")


def open_tab(page, name: str) -> None:
    page.click(f"button[role=tab]:has-text('{name}')")


def layout_shifts(page) -> list[tuple[float, float]]:
    """Seconds and size of each layout shift since the page was opened, without those within half a second of an input."""
    return page.evaluate("""() => new Promise((done) => {
        const shifts = [], own = (list) => list.getEntries().filter((one) => !one.hadRecentInput);
        new PerformanceObserver((list) => own(list).forEach((one) => shifts.push([one.startTime / 1000, one.value])))
            .observe({ type: "layout-shift", buffered: true });
        setTimeout(() => done(shifts), 200);
    })""")


def layout_shift(page) -> float:
    """The sum of all layout shifts since the page was opened."""
    return sum(value for _, value in layout_shifts(page))


def cumulative_layout_shift(page) -> float:
    """The largest sum of shifts less than a second apart within five seconds (https://web.dev/articles/cls)."""
    largest = total = 0.0
    first = last = float("-inf")
    for seconds, value in layout_shifts(page):
        if seconds - last >= 1 or seconds - first >= 5:
            total, first = 0.0, seconds
        total, last = total + value, seconds
        largest = max(largest, total)
    return largest


@contextmanager
def traced_tasks(page) -> Iterator[list[float]]:
    """Record the page's main thread; afterwards the list holds the seconds of processor time of every task, the longest first.

    Unlike the durations of `longest_task`, they do not grow while other processes use the processor.
    """
    browser, seconds = page.context.browser, []
    browser.start_tracing(page=page, categories=["toplevel"])
    try:
        yield seconds
    finally:
        events = json.loads(browser.stop_tracing())["traceEvents"]
    threads = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name" and e["args"]["name"] == "CrRendererMain"}
    tasks = [e["tdur"] / 1e6 for e in events if e["ph"] == "X" and "tdur" in e and (e["pid"], e["tid"]) in threads]
    seconds.extend(sorted(tasks, reverse=True))


def longest_task(page) -> float:
    """Seconds of the longest task of the page's main thread since it was opened; 0 without a task over 50 ms."""
    return page.evaluate("""() => new Promise((done) => {
        let longest = 0;
        new PerformanceObserver((list) => { longest = Math.max(longest, ...list.getEntries().map((one) => one.duration)); })
            .observe({ type: "longtask", buffered: true });
        setTimeout(() => done(longest / 1000), 200);
    })""")
