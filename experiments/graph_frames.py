"""Measure how fluidly a report's graph moves: frames a second while it is dragged, by choice of edges, all drawn.

    python experiments/graph_frames.py runs/report.html

2,000 training images of a quarter of CIFAR-100 (`relgraph report RUN --split train --first 2000`), one run, one epoch,
all 11,599 edges of the student, 11,787 of the teacher, or the 22,428 of either alone, two idle cores of an AMD EPYC,
29 November 2026: 60 frames a second in each of two runs, as many as the browser shows, none longer than 17 ms. By the
time that the page's main thread has a processor, which a busy machine changes little, it is 9 ms a frame for each
choice. Where the edges are painted in each frame, as they were on fast machines when the time of painting was what told
(a canvas notes lines, and draws them later, so that it seemed to take 2 ms), it is 20, 249 and 253 ms: the 58, 6.5 and
5.9 frames a second of before. Beside some twenty other processes it was 22 to 46 frames.

Wants Chromium, its driver and selenium. The browser has no GPU here, and draws with the processor alone. Of the
frames a second the smallest counts: it is of the view that is hardest to draw.
"""

import json
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DRAG = """
const [seconds, done] = arguments, canvas = document.querySelector('.rg-mount canvas'), times = [];
const box = canvas.getBoundingClientRect(), start = performance.now();
const send = (type, turn) => canvas.dispatchEvent(new MouseEvent(type, {
  bubbles: true, cancelable: true, view: window, buttons: 1,
  clientX: box.left + box.width / 2 + 120 * Math.sin(turn), clientY: box.top + box.height / 2 + 90 * Math.sin(2 * turn),
}));
send('mousedown', 0);
requestAnimationFrame(function frame(now) {
  times.push(now);
  send('mousemove', (now - start) / 500);
  if (now - start < 1000 * seconds) return requestAnimationFrame(frame);
  send('mouseup', 0);
  const longest = Math.max(...times.slice(1).map((time, i) => time - times[i]));
  return done({ frames_per_s: 1000 * (times.length - 1) / (times.at(-1) - times[0]), longest_ms: longest });
});
"""
CHOOSE = """
const [name, value] = arguments, inputs = [...document.querySelectorAll(`[name=graph-${name}]`)];
const input = inputs.find((one) => one.type !== 'radio' || one.value === value);
if (input.type === 'radio') input.checked = true; else input.value = value;
input.dispatchEvent(new Event('change'));
"""


def busy(browser: "Chrome") -> float:
    """Return the seconds of a processor that the page's main thread has had."""
    metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


@click.command(help=__doc__)
@click.argument("report", type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=3.0, show_default=True, help="Of each drag.")
@click.option("--size", default="1280x900", show_default=True, help="Of the window, in pixels.")
def main(report: Path, seconds: float, size: str) -> None:
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={size.replace('x', ',')}"):
        options.add_argument(flag)
    with Chrome(options=options, service=Service(which("chromedriver"))) as browser:
        browser.set_script_timeout(60 + 2 * seconds)
        browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        browser.get(report.resolve().as_uri())
        browser.execute_script("document.querySelector('.rg-stage').scrollIntoView({behavior: 'instant'})")
        browser.execute_script(CHOOSE, "most", "0")
        for edges in ("student", "teacher", "differing"):
            browser.execute_script(CHOOSE, "edges", edges)
            browser.execute_async_script("setTimeout(arguments[0], 1500)")
            start = busy(browser)
            found = browser.execute_async_script(DRAG, seconds)
            found["processor_ms_a_frame"] = 1000 * (busy(browser) - start) / (found["frames_per_s"] * seconds)
            drawn = browser.execute_script("return document.querySelector('#graph-view').dataset.edgesShown")
            click.echo(json.dumps({"edges": edges, "drawn": int(drawn)} | {k: round(v, 1) for k, v in found.items()}))


if __name__ == "__main__":
    main()
