"""The Analyse tab: one drop zone for slices and studies, examples, the answer, the viewer and the files to take away."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr
from gradio.events import Dependency
from markupsafe import Markup

from brainmri.analysis.explain import Explanation
from brainmri.analysis.findings import Finding, Study
from brainmri.analysis.stability import Stability
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Scan
from brainmri.io.sequences import POST, PRE
from brainmri.io.sequences import SEQUENCES as CHANNEL_NAMES
from brainmri.report.viewer import slice_viewer
from brainmri.ui.answer import empty_state, preview, refusal, select_flair, slice_answer, study_answer, study_view, unseen_input
from brainmri.ui.batch_table import analyse_inputs, rows_html, write_csv
from brainmri.ui.blocks import ERROR_LOGGED
from brainmri.ui.cache import KEEP_MINUTES
from brainmri.ui.common import GPU, PRINT_SCRIPT, PRIVATE, REPLACE_SCRIPT, VIEWER_SCRIPT, errors_as_messages, model_choices
from brainmri.ui.decoding import list_inputs, read_input, read_one_slice, read_slice
from brainmri.ui.examples import examples, explained, first_result
from brainmri.ui.inference import (
    ZERO_GPU,
    analyse_and_explain_slice,
    analyse_slice,
    analyse_study,
    available_models,
    explain_slice,
)
from brainmri.ui.input_list import decode, detected, encode, field_value, of_study, own_assignment, selected
from brainmri.ui.inputs import SLICE, Input, files_label
from brainmri.ui.latest import Latest, latest_of, of_upload, skip_if_superseded
from brainmri.ui.logs import record_refusal, record_scan_size, record_upload_size
from brainmri.ui.results import ABSENT, CHANNELS, keep_result, kept_result, pack_slice, pack_study
from brainmri.zoo.attributes import SEQUENCES, THREE_SEQUENCES
from brainmri.zoo.registry import DEFAULT

FAILED = "Could not analyse this input"
EMPTY = empty_state("Drop a file or pick an example to see the answer.")
NOTHING = "Please drop a file or pick an example first."
EXAMPLES_LABEL = "Or try an example. All are **synthetic**, not from patients."
EXPIRED = f"Results are deleted after {KEEP_MINUTES} minutes. Please analyse the file again."
PENDING = "pending"  # hides the pictures of an earlier slice and keeps their place, so that nothing below moves twice
LINK = Markup('<p><a href="?result={}">Link to this result</a> (kept for {} minutes)</p>')
# page.js counts the uploads
EXPECT_UPLOAD = "() => [window.brainmri.expected(), null]"
GIVE_EXAMPLE = "() => [window.brainmri.give(), null]"
RECEIVE_UPLOAD = "(dropped, files, upload) => [...(window.brainmri.received(dropped) ?? [files, upload]), null]"
READ_TOKEN = "() => [new URLSearchParams(location.search).get('result')]"


class AnalyseTab:
    """The tab's components, and its handlers as methods, which return the components to update."""

    def __init__(self, page: gr.Blocks) -> None:
        self.first, self.shown_examples = first_result(), examples()
        with gr.Row(equal_height=False, elem_classes="panes", elem_id="panes"):
            with gr.Column(scale=4, min_width=320, elem_id="inputs"):
                self._add_inputs()
            with gr.Column(scale=6, min_width=320, elem_id="answer"):
                self._add_results()
        self._connect()
        # the address of the page may name a kept result
        page.load(self.reopen, self.token, [*self.run["outputs"], self.gallery], js=READ_TOKEN, show_progress="hidden", **PRIVATE)

    # --- components -------------------------------------------------------------------------------------------------------

    def _add_inputs(self) -> None:
        paths, choices = [], []
        if self.first:
            paths = [str(self.shown_examples[0].file)]
            choices = [(self.shown_examples[0].label, encode(Input(kind=SLICE, label="", files=(paths[0],)), paths))]
        self.drop = gr.File(
            label="Slice, volume, DICOM series, folder or zip", file_count="multiple", type="filepath", height=96,
            elem_id="drop", elem_classes="drop-zone",
        )  # fmt: skip
        # the files being analysed; the drop zone itself is emptied at once, so that it takes the next ones
        self.files = gr.File(
            paths or None, file_count="multiple", type="filepath", interactive=False, visible="hidden", elem_id="files"
        )
        self.upload = gr.Number(0, precision=0, visible=False)
        self.given = gr.Button(visible="hidden", elem_id="given")  # page.js presses it when files are dropped
        self.current = gr.HTML(
            preview(self.first.scan, self.first.scan.name) if self.first else "",
            elem_id="current",
            padding=False,
        )
        # values are inputs, from `encode`
        with gr.Column(visible=False, elem_id="several") as self.several:
            self.items = gr.Radio(choices, value=choices[0][1] if choices else None, label="Inputs", elem_id="items")
            with gr.Row(elem_classes="downloads"):
                self.all = gr.Button("Analyse all", size="md", min_width=90)
                self.table = gr.DownloadButton("↓ Table (CSV)", size="md", min_width=90, visible=False)
            self.rows = gr.HTML(elem_id="rows", padding=False)
        cards = [(str(example.card), example.label) for example in self.shown_examples]
        gr.Markdown(EXAMPLES_LABEL, visible=bool(cards), elem_id="examples-label")
        self.gallery = gr.Gallery(
            cards, show_label=False, columns=4, object_fit="contain", height="auto", allow_preview=False, interactive=False,
            buttons=[], format="png", elem_id="examples", visible=bool(cards), selected_index=0 if self.first else None,
        )  # fmt: skip
        with gr.Column(visible=False, elem_id="sequences") as self.selection:
            # custom values, since the browser may send a value of an earlier input; see `selected`
            self.channels = [
                gr.Dropdown([], allow_custom_value=True, label=CHANNEL_NAMES[channel], interactive=True) for channel in CHANNELS
            ]
        with gr.Accordion("Models", open=False, elem_id="settings"):
            segmenters, classifiers = model_choices("segmentation"), model_choices("classification")
            self.segmenter = gr.Dropdown(segmenters, value=DEFAULT, label="Segmenter", info="Draws the mask.")
            self.classifier = gr.Dropdown(classifiers, value=DEFAULT, label="Classifier", info="Predicts the verdict.")
            self.sequence = gr.Dropdown(
                [("Recognise it", ""), *((name, name) for name in SEQUENCES if name != THREE_SEQUENCES)],
                value="", label="Sequence of a greyscale slice",
                visible=any("attributes" in entry.arguments for entry in available_models.values()), elem_id="sequence",
            )  # fmt: skip
        self.button = gr.Button("Analyse", variant="primary", size="lg")

    def _add_results(self) -> None:
        first = self.first
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
            self.token = gr.Textbox(visible=False)  # of the page's address
            self.likeliest = gr.Number(
                precision=0, visible=False
            )  # index of the slice to explain, of a study the likeliest; none for what is no brain
            with gr.Accordion("Why: evidence and stability", open=True, elem_id="why") as self.why:
                self.explanation = gr.Markdown(first.explanation if first else None, elem_id="explanation", min_height=72)
                self.evidence = gr.Gallery(
                    first.evidence if first else None, show_label=False, columns=2, object_fit="contain", height="auto",
                    format="png", buttons=["fullscreen"], interactive=False, elem_id="evidence",
                )  # fmt: skip
            with gr.Accordion("Record and provenance", open=False):
                self.record = gr.JSON(first.finding.record() if first else None, label="Record", show_label=False)

    def _connect(self) -> None:
        settings = [self.files, self.items, self.segmenter, self.classifier, self.sequence]
        outputs = [
            self.box, self.current, self.results, self.viewer, self.packed, self.report, self.why, self.explanation,
            self.evidence, self.record, self.link, self.likeliest,
        ]  # fmt: skip
        fields, batch = [self.selection, *self.channels, self.sequence], [self.several, self.items, self.table, self.rows]
        hidden = {"show_progress": "hidden", "trigger_mode": "multiple", **PRIVATE}
        upload = [self.files, self.upload]
        self.given.click(self.expect, self.upload, None, js=EXPECT_UPLOAD, **hidden)
        dropped = self.drop.upload(None, [self.drop, *upload], [*upload, self.drop], js=RECEIVE_UPLOAD, **hidden)
        picked = self.gallery.select(self.pick, self.upload, upload, js=GIVE_EXAMPLE, **hidden)
        received = [
            event.success(self.receive, upload, [self.files, *batch, *fields, self.gallery, *outputs], **hidden)
            for event in (dropped, picked)
        ]
        chosen = self.items.input(self.choose, [self.files, self.items], fields, **hidden)
        self.all.click(
            self.analyse_all, [self.files, self.segmenter, self.classifier, self.sequence], [self.table, self.rows],
            api_visibility="private", show_progress_on=self.rows, **GPU,
        )  # fmt: skip
        pressed = self.button.click(self.require_files, self.files, outputs, **hidden)
        self.run = {
            "fn": self.analyse, "inputs": [*settings, *self.channels], "outputs": outputs, "api_visibility": "private",
            "show_progress_on": self.box, **GPU,
        }  # fmt: skip
        changes = [self.segmenter.input, self.classifier.input, self.sequence.input]
        self._follow(gr.on(changes, trigger_mode="always_last", **self.run))
        self._follow(pressed.success(**self.run))  # a double click is one analysis
        for event in (*received, chosen):
            self.analyse_after(event)
        for event in (picked, *received):
            event.failure(self.fail, None, outputs, **PRIVATE)

    def analyse_after(self, event: Dependency) -> None:
        """Analyse the selected input when an event has succeeded, also if it comes while an earlier one is analysed."""
        self._follow(event.success(trigger_mode="multiple", **self.run))

    def _follow(self, analysis: Dependency) -> None:
        """Show the failure of an analysis, and explain its result."""
        analysis.failure(self.fail, None, self.run["outputs"], **PRIVATE)
        if not ZERO_GPU:
            analysis.success(
                self.explain, [*self.run["inputs"], self.likeliest], [self.why, self.explanation, self.evidence],
                api_visibility="private", show_progress_on=self.explanation, trigger_mode="multiple", **GPU,
            )  # fmt: skip

    # --- handlers ---------------------------------------------------------------------------------------------------------

    def expect(self, upload: int, request: gr.Request) -> None:
        """Show nothing of earlier inputs any more, since files of this upload are on their way."""
        latest_of(request).give(upload)

    def pick(self, event: gr.SelectData, upload: int, request: gr.Request) -> tuple[list[str], int]:
        """The file of the selected example."""
        latest_of(request).give(upload)
        return [str(self.shown_examples[event.index].file)], upload

    def receive(self, files: list[str] | None, upload: int, request: gr.Request) -> dict:
        """Recognise what was uploaded: list the inputs, select the first, and mark the example if it is one."""
        uploaded, hide = files or [], gr.Column(visible=False)
        latest = latest_of(request)
        latest.give(upload)
        try:
            with errors_as_messages(FAILED):
                record_upload_size(uploaded)
                found = list_inputs(uploaded)
        except gr.Error as error:
            name = files_label(uploaded) if uploaded else ""
            unmarked = {self.gallery: gr.Gallery(selected_index=None), self.several: hide, self.selection: hide}
            # the items keep their choices: the browser still sends the value of a radio that is set to None
            refused = self.numbered(self.refuse(error, name), latest) | unmarked | {self.files: None}
            return refused if upload == latest.upload else gr.skip()
        if upload != latest.upload:
            return gr.skip()
        choices = [(one.label, encode(one, uploaded)) for one in found]
        names = [example.file.name for example in self.shown_examples]
        marked = names.index(found[0].label) if len(found) == 1 and found[0].label in names else None
        return {
            self.items: gr.Radio(choices, value=choices[0][1], label=f"{len(found)} inputs"),
            self.several: gr.Column(visible=True) if len(found) > 1 else hide,
            self.table: gr.DownloadButton(visible=False),
            self.rows: "",
            self.gallery: gr.Gallery(selected_index=marked),
            **self.choose(uploaded, choices[0][1], request),
        }

    def choose(self, files: list[str], item: str, request: gr.Request) -> dict:
        """Fill the sequence fields with the volumes or series of an input; show them if there is a choice.

        The sequence that was chosen for an earlier slice does not hold for this one.
        """
        latest_of(request).choose(files, item)
        chosen = decode(item, files)
        candidates, study = chosen.candidates, chosen.study
        choices = [(candidate.label, field_value(number, item)) for number, candidate in of_study(candidates, study)]
        absent = {FLAIR: "please select", PRE: "none", POST: "none"}
        updates: dict = {
            field: gr.Dropdown([(absent[channel], field_value(ABSENT, item)), *choices], value=field_value(number, item))
            for field, channel, number in zip(self.channels, CHANNELS, detected(candidates, study), strict=True)
        }
        return {self.selection: gr.Column(visible=len(choices) > 1), self.sequence: "", **updates}

    def require_files(self, files: list[str] | None, request: gr.Request) -> dict:
        """Say so if there is nothing to analyse."""
        nothing = gr.Error(NOTHING, title="Nothing to analyse")
        return gr.skip() if files else self.numbered(self.refuse(nothing), latest_of(request))

    @skip_if_superseded
    def analyse(
        self, files: list[str] | None, item: str | None, segmenter: str, classifier: str, sequence: str,
        flair: str | None, pre: str | None, post: str | None, request: gr.Request, progress=gr.Progress(),
    ) -> dict:  # fmt: skip
        """Analyse the selected input and show the result; nothing happens without files, or once a newer input is given."""
        latest = latest_of(request)
        if not files or not item or latest.replaced(files, item):
            return gr.skip()
        rest = (flair, pre, post), progress, latest.watch(files, item)
        shown = self.answer(files, item, segmenter, classifier, sequence, *rest)
        return gr.skip() if latest.replaced(files, item) else self.numbered(shown, latest)

    def answer(
        self, files: list[str], item: str, segmenter: str, classifier: str, sequence: str, fields: tuple[str | None, ...],
        progress: gr.Progress, check: Callable[..., None],
    ) -> dict:  # fmt: skip
        """The updates that show the result for an input, or the reason why there is none; `check` may end the analysis."""
        label = ""
        try:
            with errors_as_messages(FAILED):
                chosen = decode(item, files)
                label = chosen.label
                record_upload_size(chosen.files)
                if chosen.kind == SLICE:
                    scan = read_slice(chosen.files[0])
                    record_scan_size(scan)
                    if ZERO_GPU:  # a call of its own for the explanation would wait for a GPU again
                        choices = segmenter, classifier, None, sequence or None
                        finding, explanation, stability = analyse_and_explain_slice(scan, *choices)
                        shown, why = self.show_slice(scan, finding), self.show_explanation(scan, explanation, stability)
                        return shown if finding.out_of_distribution else shown | why
                    return self.show_slice(scan, analyse_slice(scan, segmenter, classifier, None, sequence or None, check))
                given = selected(fields, item, chosen)
                if given[0] == ABSENT and chosen.candidates and chosen.study is None:
                    prompt = select_flair([candidate.label for candidate in chosen.candidates])
                    return self.clear() | {self.box: prompt, self.current: unseen_input(label, "?")}
                progress((0, None), desc="Reading")
                scan = read_input(chosen, own_assignment(given, chosen))
                record_scan_size(scan)

                def slices(done: int, total: int) -> None:
                    check()
                    progress((done, total), desc="Analysing", unit="slices")

                # on ZeroGPU the analysis runs in another process and cannot report progress
                found = analyse_study(scan, segmenter, classifier, None, None if ZERO_GPU else slices)
                check()
                progress((0, None), desc="Writing files")
                return self.show_study(scan, found, chosen.label)
        except gr.Error as error:
            return self.refuse(error, label)

    @skip_if_superseded
    def explain(
        self, files: list[str] | None, item: str | None, segmenter: str, classifier: str, sequence: str,
        flair: str | None, pre: str | None, post: str | None, likeliest: int | None, request: gr.Request,
    ) -> dict:  # fmt: skip
        """Explain the verdict on a slice, of a study the likeliest, and test the outline's stability.

        This is slower, so it runs after the verdict.
        """
        latest = latest_of(request)
        if not files or not item or likeliest is None or latest.replaced(files, item):
            return gr.skip()
        try:
            with errors_as_messages(FAILED):
                chosen = decode(item, files)
                assign = None if chosen.kind == SLICE else own_assignment(selected((flair, pre, post), item, chosen), chosen)
                scan, where = read_one_slice(chosen, assign, likeliest)
                record_scan_size(scan)
                found = explain_slice(scan, segmenter, classifier, None, sequence or None, latest.watch(files, item))
        except gr.Error:
            record_refusal()  # the answer already shows the reason
            return gr.skip()
        return gr.skip() if latest.replaced(files, item) else self.show_explanation(scan, *found, where)

    @skip_if_superseded
    def analyse_all(
        self, files: list[str] | None, segmenter: str, classifier: str, sequence: str, request: gr.Request,
        progress=gr.Progress(),
    ) -> dict:  # fmt: skip
        """Analyse every input; show a table and offer it as CSV. Nothing happens once newer files are given."""
        check = latest_of(request).watch(files or [])
        try:
            with errors_as_messages(FAILED):
                rows = analyse_inputs(files or [], segmenter, classifier, sequence or None, progress, check)
        except gr.Error as error:
            record_refusal()
            return {self.rows: refusal(error.title, error.message)}
        return {self.table: gr.DownloadButton(value=write_csv(rows), visible=True), self.rows: rows_html(rows)}

    # --- results ----------------------------------------------------------------------------------------------------------

    def show_slice(self, scan: Scan, finding: Finding) -> dict:
        """The updates that show the result for a slice."""
        packed, record = pack_slice(scan, finding)
        strange = finding.out_of_distribution  # then there is no mask to take away
        shown = {
            "box": slice_answer(scan, finding), "current": preview(scan, scan.name), "viewer": slice_viewer(scan, finding),
            "packed": None if strange else packed, "report": None, "record": record, "why": not strange,
        }  # fmt: skip
        return self.show(shown | {"token": keep_result(shown)}) | {self.likeliest: None if strange else 0}

    def show_explanation(self, scan: Scan, explanation: Explanation, stability: Stability, where: str = "") -> dict:
        """The updates that explain the result for a slice; `where` says which one of a study it is."""
        sentence, pictures = explained(scan, explanation, stability)
        evidence = gr.Gallery(pictures, visible=bool(pictures), elem_classes=[])
        return {self.why: gr.Accordion(visible=True), self.explanation: where + sentence, self.evidence: evidence}

    def show_study(self, scan: Scan, study: Study, label: str) -> dict:
        """The updates that show the result for a study."""
        (packed, report, record), strange = pack_study(scan, study), study.out_of_distribution
        shown = {
            "box": study_answer(scan, study, record["warnings"]), "current": preview(scan, label),
            "viewer": study_view(scan, study), "packed": None if strange else packed, "report": None if strange else report,
            "record": record, "why": False,  # its place below the taller view would shift; the explanation opens it
        }  # fmt: skip
        return self.show(shown | {"token": keep_result(shown)}) | {self.likeliest: None if strange else study.most_probable}

    def show(self, shown: dict) -> dict:
        """The updates that show a result, new or kept."""
        return {
            self.box: shown["box"],
            self.current: shown["current"],
            self.results: gr.Column(visible=True),
            self.viewer: shown["viewer"],
            self.packed: gr.DownloadButton(value=shown["packed"], visible=shown["packed"] is not None),
            self.report: gr.DownloadButton(value=shown["report"], visible=shown["report"] is not None),
            self.why: gr.Accordion(visible=shown["why"]),
            self.explanation: "",
            self.evidence: gr.Gallery(elem_classes=[PENDING]),
            self.record: shown["record"],
            self.link: LINK.format(shown["token"], KEEP_MINUTES),
        }

    def reopen(self, token: str | None) -> dict:
        """Show the result that the page's address names."""
        if not token:
            return gr.skip()
        shown, unmarked = kept_result(token), {self.gallery: gr.Gallery(selected_index=None)}
        if shown is None:
            return self.refuse(gr.Error(EXPIRED, title="This result has expired")) | unmarked
        return self.show(shown | {"token": token}) | {self.why: gr.Accordion(visible=False)} | unmarked

    def clear(self) -> dict:
        """The updates that remove an earlier result."""
        return {
            self.box: EMPTY, self.current: "", self.results: gr.Column(visible=False), self.viewer: None, self.record: None
        }  # fmt: skip

    def refuse(self, error: gr.Error, label: str = "") -> dict:
        """The updates that show why the input of this name was refused, in place of any earlier result."""
        record_refusal()
        return self.clear() | {self.box: refusal(error.title, error.message), self.current: unseen_input(label, "✕")}

    def fail(self, request: gr.Request) -> dict:
        """The updates after an error of the server, which was logged."""
        return self.numbered(self.clear() | {self.box: refusal("Analysis failed", ERROR_LOGGED)}, latest_of(request))

    def numbered(self, updates: dict, latest: Latest) -> dict:
        """Updates whose box has the number of the upload that it answers, which ends the wait for it in page.js."""
        return updates | {self.box: of_upload(latest.upload, updates[self.box])}
