"""The Models tab: stored metrics are shown unchanged, and nothing in a third-party card is executed."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from brainmri.report.metric_tables import reliability_svg, reliability_table
from brainmri.ui.inference import available_models, set_available_models
from brainmri.ui.models_tab import MAX_CARD_CHARS, card_html, model_html, run_selfcheck, safe_html
from brainmri.zoo.entry import CARD, CONFIG, read_entry
from brainmri.zoo.metrics import RELIABILITY, THREE_SEQUENCES, WHOLE_STUDY, label
from brainmri.zoo.registry import DEFAULT, EMBEDDED, embedded
from train.evaluation.metrics import reliability

HARMLESS = set("a blockquote br code em h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul".split())
PACKAGE = set("article circle details div figcaption figure g h2 path rect small summary svg text title".split())


class Tags(HTMLParser):
    """Collects every tag of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def entry(tmp_path):
    """Return a function that reads a copy of the default entry with a changed card and configuration."""

    def entry(card: str | None = None, **config):
        folder = tmp_path / "third-party"
        shutil.copytree(EMBEDDED / DEFAULT, folder, dirs_exist_ok=True)
        if card is not None:
            (folder / CARD).write_text(card, encoding="utf-8")
        known = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        (folder / CONFIG).write_text(json.dumps(known | config), encoding="utf-8")
        return read_entry(folder)

    return entry


@pytest.fixture
def with_bins(entry):
    """The default entry with reliability bins of known size, from 20 patients of 200 slices each."""
    predicted = np.repeat([0.05, 0.5, 0.95], [100, 40, 60])
    patients = [np.stack([predicted, np.arange(200) % 10 < 10 * predicted], axis=1)] * 19 + [
        np.stack([predicted, predicted > 2], axis=1)
    ]
    metrics = json.loads((EMBEDDED / DEFAULT / CONFIG).read_text(encoding="utf-8"))["metrics"]
    for figures in metrics["variants"].values():
        figures.pop(RELIABILITY, None)
    metrics["variants"][THREE_SEQUENCES][RELIABILITY] = reliability(patients)
    metrics["variants"][WHOLE_STUDY] = metrics["variants"][THREE_SEQUENCES] | {RELIABILITY: reliability(patients[:1])}
    return entry(metrics=metrics)


HOSTILE = """---
tags: [hidden]
---
# Model

<script>alert(1)</script><img src=x onerror=alert(1)>

<iframe src="https://elsewhere.example"></iframe>

Text with <b onclick="alert(1)">bold</b>, ![a picture](https://elsewhere.example/pixel.png), ![](data:image/svg+xml;base64,AAAA),
[script](javascript:alert(1)), [data](data:text/html;base64,AAAA), [file](LICENSE), [top](#t), [web](https://a.example "title"),
<https://b.example>, `<svg onload=alert(1)>`, {{value}} and ${alert(1)}

| a | b |
|---|---|
| <style>*{}</style> | ![x](//elsewhere.example/x.png) |

```html
</code></pre><script>alert(1)</script>
```
"""


def test_third_party_card_runs_and_fetches_nothing(entry):
    html = card_html(entry(card=HOSTILE))
    links = []
    for tag, attributes in Tags(html).found:
        assert tag in HARMLESS | {"details", "summary", "div"}
        if tag == "a":
            links += [attributes["href"]] if attributes else []
            assert not attributes or attributes["rel"] == "noopener noreferrer nofollow"
        else:
            assert set(attributes) <= {"class", "tabindex", "role", "aria-label"}
    assert links == ["https://a.example", "https://b.example"]
    assert "hidden" not in html
    assert "[a picture]" in html
    assert "<h3>Model</h3>" in html
    assert "&lt;script&gt;alert(1)" in html  # shown as text


def test_very_long_card_is_cut(entry):
    html = card_html(entry(card="word " * MAX_CARD_CHARS))
    assert len(html) < MAX_CARD_CHARS + 1000
    assert "the rest is not shown" in html


def test_missing_card_and_metrics_are_reported(entry):
    plain = entry(metrics={})
    (plain.folder / CARD).unlink()
    html = model_html(plain)
    assert "<p>No metrics available.</p>" in html
    assert "This model has no card." in html


@pytest.mark.parametrize(
    "metrics",
    [
        ["<img src=x>"],
        {"variants": {}},
        {"variants": []},
        {"protocol": "<script>", "variants": {THREE_SEQUENCES: {"patients": "<b>", "slices": 3}}},
        {"protocol": "p", "variants": {THREE_SEQUENCES: {"patients": 1, "slices": 3, RELIABILITY: [{"slices": "<img>"}]}}},
        {"protocol": "p", "variants": {THREE_SEQUENCES: {"patients": 1, "slices": 3, RELIABILITY: [{"slices": 2}]}}},
    ],
)
def test_metrics_in_an_unknown_format_are_not_shown(metrics, entry):
    html = model_html(entry(name="<script>", summary="<img src=x>", metrics=metrics))
    assert "unknown format" in html
    assert {tag for tag, _ in Tags(html).found} <= HARMLESS | PACKAGE


def test_names_of_metrics_are_escaped(entry):
    figures = {"patients": 1, "slices": 3, "<img src=x onerror=alert(1)>": {"value": 0.5}}
    html = model_html(entry(card="", metrics={"protocol": "<script>", "variants": {THREE_SEQUENCES: figures}}))
    assert "0.500" in html
    assert {tag for tag, _ in Tags(html).found} <= HARMLESS | PACKAGE


@pytest.mark.parametrize("name", embedded())
def test_every_metric_is_shown_with_its_interval(name):
    entry = embedded()[name]
    html = model_html(entry)
    for figures in entry.metrics.variants.values():
        for figure, found in figures.items():
            if isinstance(found, dict) and "value" in found:
                assert label(figure) in html
                assert (
                    f">{found['value']:.3f}" + (" [{:.3f}, {:.3f}]<".format(*found["interval_95"]) if len(found) > 1 else "<")
                    in html
                )
    assert html.index("Intended use") > html.index("<summary>Model card</summary>")


def test_diagram_is_drawn_from_the_bins(with_bins):
    drawing = ElementTree.fromstring(str(reliability_svg(with_bins, THREE_SEQUENCES)))
    dots = [{name: float(dot.get(name)) for name in ("cx", "cy", "r")} for dot in drawing.findall(".//{*}circle")]
    bins = with_bins.metrics.variants[THREE_SEQUENCES][RELIABILITY]
    assert [one["slices"] for one in bins] == [2000, 800, 1200]
    assert [dot["cx"] for dot in dots] == pytest.approx([58 + 250 * 0.05, 58 + 125, 58 + 250 * 0.95], abs=0.06)
    assert [dot["cy"] for dot in dots] == pytest.approx([260 - 250 * one["tumour"] for one in bins], abs=0.06)
    assert dots[0]["r"] > dots[2]["r"] > dots[1]["r"]
    assert drawing.get("role") == "img"
    assert f"{DEFAULT}, three sequences" in drawing.get("aria-label")
    (band,) = drawing.findall(".//{*}rect")
    low, high = with_bins.review
    assert (float(band.get("x")), float(band.get("width"))) == pytest.approx((58 + 250 * low, 250 * (high - low)), abs=0.06)
    assert len(re.findall('stroke-width="2"', reliability_svg(with_bins, THREE_SEQUENCES))) == 3
    assert 'stroke-width="2"' not in reliability_svg(with_bins, WHOLE_STUDY)  # one patient has no spread


def test_numbers_of_the_diagrams_are_shown_in_a_table(with_bins):
    html = model_html(with_bins)
    assert html.count("<svg") == 2
    rows = reliability_table(with_bins.metrics.variants).splitlines()
    assert rows[0] == "| probability of tumour | three sequences | whole study |"
    assert rows[3].startswith("| 46.7% to 53.3% | 47.5% of 800 |")
    assert safe_html("\n".join(rows)) in html
    assert "No reliability diagram" not in html


def test_self_check_result_is_a_sentence(entry, monkeypatch):
    set_available_models([])
    name = rf"Any sequence and plane \({DEFAULT}\)"
    computed = rf"<p class='passed'>.* {name} on \w+ with \w+ matches its stored outputs within [\d.e-]+\.</p>"
    assert re.fullmatch(computed, run_selfcheck(DEFAULT))
    stored = json.loads((EMBEDDED / DEFAULT / CONFIG).read_text(encoding="utf-8"))["selfcheck"]
    changed = entry(selfcheck=stored | {"probability": stored["probability"] - 0.5})
    monkeypatch.setitem(available_models, str(changed.folder), changed)
    assert re.search(r"class='failed'.*differs by 0\.5\d* from its stored outputs", run_selfcheck(str(changed.folder)))
