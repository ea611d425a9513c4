"""What the Analyse tab shows of a result: the box, the viewer, files to take away and the explanation, as updates."""

from __future__ import annotations

import gradio as gr
from markupsafe import Markup

from brainmri.analysis.explain import LIKELIEST
from brainmri.analysis.findings import Decision, Finding, Study
from brainmri.io.scan import Scan
from brainmri.report.viewer import slice_viewer
from brainmri.ui.answer import empty_state, preview, refusal, slice_answer, study_answer, study_view, unseen_input
from brainmri.ui.blocks import ERROR_LOGGED
from brainmri.ui.cache import KEEP_MINUTES
from brainmri.ui.common import PRINT_SCRIPT, PRIVATE, REPLACE_SCRIPT, VIEWER_SCRIPT
from brainmri.ui.examples import StoredResult
from brainmri.ui.inference import Explained, likeliest_slice
from brainmri.ui.latest import Latest, of_upload
from brainmri.ui.logs import record_refusal
from brainmri.ui.results import keep_result, kept_result, pack_slice, pack_study
from brainmri.ui.why import Question, Why, has_question, keep_question, keep_why, kept_why

EMPTY = empty_state("Drop a file or pick an example to see the answer.")
EXPIRED = f"Results are deleted after {KEEP_MINUTES} minutes. Please analyse the file again."
UNEXPLAINED = "This result has not been explained yet."
NOT_EXPLAINED = "The explanation failed. Please try again or, if it fails again, analyse the file once more."
PENDING = "pending"  # hides the pictures of an earlier slice and keeps their place, so that nothing below moves twice
LINK = Markup('<p><a href="?result={}">Link to this result</a> (kept for {} minutes)</p>')

Models = tuple[str, str, str | None]  # segmenter, classifier, and the sequence that the visitor chose


class ResultPanel:
    """The components of a result, and methods that return the updates to show one.

    Args:
        current: shows what is analysed, beside the inputs.
        first: the result that is shown before any input.
    """

    def __init__(self, current: gr.HTML, first: StoredResult | None) -> None:
        self.current = current
        box = slice_answer(first.scan, first.finding) if first else EMPTY
        self.box = gr.HTML(box, js_on_load=REPLACE_SCRIPT, elem_id="verdict", elem_classes="verdict-box", padding=False)
        with gr.Column(visible=first is not None, elem_id="results") as self.results:
            self.viewer = gr.HTML(
                slice_viewer(first.scan, first.finding) if first else None,
                js_on_load=VIEWER_SCRIPT, elem_id="viewer", padding=False,
            )  # fmt: skip
            with gr.Row(elem_classes="downloads", elem_id="downloads"):
                packed = pack_slice(first.scan, first.finding)[0] if first else None
                self.packed = gr.DownloadButton("↓ All files (zip)", packed, size="md", min_width=90)
                self.report = gr.DownloadButton("↓ Report", size="md", min_width=90, visible=False)
                printed = gr.Button("Print or PDF", size="md", min_width=90)
            printed.click(None, self.report, None, js=PRINT_SCRIPT, **PRIVATE)
            self.link = gr.HTML(elem_id="link", padding=False)
            self.token = gr.Textbox(visible=False)  # of the result that is shown; at first, of the page's address
            with gr.Accordion("Why: evidence and stability", open=True, elem_id="why") as self.why:
                self.explanation = gr.Markdown(first.explanation if first else None, elem_id="explanation", min_height=72)
                self.evidence = gr.Gallery(
                    first.evidence if first else None, show_label=False, columns=2, object_fit="contain", height="auto",
                    format="png", buttons=["fullscreen"], interactive=False, elem_id="evidence",
                )  # fmt: skip
                self.ask = gr.Button("Explain the result", size="md", visible=False, elem_classes="outlined")
            with gr.Accordion("Record and provenance", open=False, elem_id="record"):
                self.record = gr.JSON(first.finding.record() if first else None, label="Record", show_label=False)
        self.explained = [self.why, self.explanation, self.evidence, self.ask]
        self.outputs = [
            self.box, self.current, self.results, self.viewer, self.packed, self.report, *self.explained, self.record, self.link,
            self.token,
        ]  # fmt: skip

    # --- a new result -----------------------------------------------------------------------------------------------------

    def show_slice(self, scan: Scan, finding: Finding, models: Models, explained: Explained | None) -> dict:
        """The updates that show the result for a slice, with its explanation if there is one yet."""
        packed, record = pack_slice(scan, finding)
        strange = finding.out_of_distribution  # then there is no mask to take away, and nothing to explain
        token = keep_result({
            "box": slice_answer(scan, finding), "current": preview(scan, scan.name), "viewer": slice_viewer(scan, finding),
            "packed": None if strange else packed, "report": None, "record": record,
        })  # fmt: skip
        if not strange:
            keep_to_explain(token, scan, finding, models, explained)
        return self.show(token) | {self.why: gr.Accordion(visible=not strange)}

    def show_study(self, scan: Scan, study: Study, label: str, models: Models, explained: Explained | None) -> dict:
        """The updates that show the result for a study."""
        (packed, report, record), strange = pack_study(scan, study), study.out_of_distribution
        token = keep_result({
            "box": study_answer(scan, study, record["warnings"]), "current": preview(scan, label),
            "viewer": study_view(scan, study), "packed": None if strange else packed, "report": None if strange else report,
            "record": record,
        })  # fmt: skip
        if not strange:
            number = study.most_probable
            where = LIKELIEST.format(number + 1, len(scan.pixels))
            keep_to_explain(token, likeliest_slice(scan, study), study.findings[number], models, explained, where)
        return self.show(token)

    # --- a kept result ----------------------------------------------------------------------------------------------------

    def show(self, token: str) -> dict:
        """The updates that show a kept result.

        Raises:
            FileNotFoundError: if it has expired.
        """
        shown, why = kept_result(token), kept_why(token)
        return {
            self.box: Markup(shown["box"]),
            self.current: shown["current"],
            self.results: gr.Column(visible=True),
            self.viewer: shown["viewer"],
            self.packed: gr.DownloadButton(value=shown["packed"], visible=shown["packed"] is not None),
            self.report: gr.DownloadButton(value=shown["report"], visible=shown["report"] is not None),
            # without an explanation hidden: of a study, its place below the taller view would shift
            self.why: gr.Accordion(visible=False),
            self.explanation: "",
            self.evidence: gr.Gallery(elem_classes=[PENDING]),
            self.ask: gr.Button(visible=False),
            self.record: shown["record"],
            self.link: LINK.format(token, KEEP_MINUTES),
            self.token: token,
        } | (self.show_why(why) if why else {})

    def reopen(self, token: str) -> dict:
        """The updates that show the result that the page's address names, or that it has expired."""
        try:
            shown = self.show(token)
        except FileNotFoundError:
            return self.refuse(gr.Error(EXPIRED, title="This result has expired"))
        unexplained = has_question(token) and not kept_why(token)
        return shown | self.offer_why(UNEXPLAINED) if unexplained else shown

    def show_why(self, why: Why) -> dict:
        """The updates that show an explanation."""
        return {
            self.why: gr.Accordion(visible=True),
            self.explanation: why.sentence,
            self.evidence: gr.Gallery(why.pictures, visible=bool(why.pictures), elem_classes=[]),
            self.ask: gr.Button(visible=False),
        }

    def offer_why(self, sentence: str) -> dict:
        """The updates that say why there is no explanation, and offer one."""
        return {
            self.why: gr.Accordion(visible=True),
            self.explanation: sentence,
            self.evidence: gr.Gallery(visible=False),
            self.ask: gr.Button(visible=True),
        }

    # --- no result --------------------------------------------------------------------------------------------------------

    def clear(self) -> dict:
        """The updates that remove an earlier result."""
        return {
            self.box: EMPTY, self.current: "", self.results: gr.Column(visible=False), self.viewer: None, self.record: None,
            self.token: None,
        }  # fmt: skip

    def refuse(self, error: gr.Error, label: str = "") -> dict:
        """The updates that show why the input of this name was refused, in place of any earlier result."""
        record_refusal()
        return self.clear() | {self.box: refusal(error.title, error.message), self.current: unseen_input(label, "✕")}

    def fail(self, latest: Latest) -> dict:
        """The updates after an error of the server, which was logged."""
        return self.numbered(self.clear() | {self.box: refusal("Analysis failed", ERROR_LOGGED)}, latest)

    def numbered(self, updates: dict, latest: Latest, refused: bool = False) -> dict:
        """Updates whose box has the number of the upload that it answers, which ends the wait for it in page.js.

        `refused` is for an upload of which nothing is analysed.
        """
        return updates | {self.box: of_upload(latest.upload, updates[self.box], refused)}


def keep_to_explain(
    token: str, scan: Scan, finding: Finding, models: Models, explained: Explained | None, where: str = ""
) -> None:
    """Keep a slice with the result, to be explained later, or its explanation; `where` says which slice of a study it is."""
    if explained:
        keep_why(token, scan, explained, where)
    else:
        segmenter, classifier, sequence = models
        keep_question(token, Question(
            scan=scan, decision=Decision.of(finding), segmenter=segmenter, classifier=classifier, sequence=sequence, where=where
        ))  # fmt: skip
