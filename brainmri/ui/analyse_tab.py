"""The Analyse tab: one drop zone for slices and studies, examples, the answer, the viewer and the files to take away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gradio as gr
from gradio.events import Dependency

from brainmri.io.files import StudyFile
from brainmri.io.pixels import FLAIR
from brainmri.io.sequences import POST, PRE
from brainmri.io.sequences import SEQUENCES as CHANNEL_NAMES
from brainmri.ui.answer import preview, refusal, select_flair, unseen_input
from brainmri.ui.batch_table import analyse_inputs, rows_html, write_csv
from brainmri.ui.common import GPU, PRIVATE, errors_as_messages, model_choices
from brainmri.ui.decoding import list_inputs, read_input
from brainmri.ui.examples import example_of, examples, first_result
from brainmri.ui.inference import (
    ZERO_GPU,
    analyse_and_explain_slice,
    analyse_and_explain_study,
    analyse_slice,
    analyse_study,
    available_models,
)
from brainmri.ui.input_list import decode, detected, encode, field_value, of_study, own_assignment, selected
from brainmri.ui.inputs import SLICE, Input, files_label
from brainmri.ui.latest import latest_of, skip_if_superseded
from brainmri.ui.logs import record_refusal, record_scan_size, record_upload_size
from brainmri.ui.result_panel import NOT_EXPLAINED, ResultPanel
from brainmri.ui.results import ABSENT, CHANNELS
from brainmri.ui.why import explain_result, has_question, kept_why
from brainmri.zoo.attributes import SEQUENCES, THREE_SEQUENCES
from brainmri.zoo.registry import DEFAULT

FAILED = "Could not analyse this input"
NOTHING = "Please drop a file or pick an example first."
EXAMPLES_LABEL = "Or try an example. All are **synthetic**, not from patients."
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
                self.panel = ResultPanel(self.current, self.first)
        self._connect()
        # the address of the page may name a kept result
        page.load(
            self.reopen, self.panel.token, [*self.run["outputs"], self.files, self.gallery], js=READ_TOKEN,
            show_progress="hidden", **PRIVATE,
        )  # fmt: skip

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
            selected_item = choices[0][1] if choices else None
            self.items = gr.Radio(choices, value=selected_item, label="Inputs", elem_id="items")
            with gr.Row(elem_classes="downloads"):
                self.all = gr.Button("Analyse all", size="md", min_width=90)
                self.table = gr.DownloadButton("↓ Table (CSV)", size="md", min_width=90, visible=False)
            self.rows = gr.HTML(elem_id="rows", padding=False)
        # what the radio selects; Gradio refuses the radio's own value with an error once the list is another
        self.item = gr.Textbox(selected_item, visible=False)
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

    def _connect(self) -> None:
        settings = [self.files, self.item, self.segmenter, self.classifier, self.sequence]
        outputs = self.panel.outputs
        fields, batch = (
            [self.item, self.selection, *self.channels, self.sequence],
            [self.several, self.items, self.table, self.rows],
        )
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
        pressed = self.button.click(  # in the queue, or its message would not be shown
            self.require_files, self.files, None, show_progress="hidden", trigger_mode="multiple", api_visibility="private"
        )
        self.run = {
            "fn": self.analyse, "inputs": [*settings, *self.channels], "outputs": outputs, "api_visibility": "private",
            "show_progress_on": self.panel.box, **GPU,
        }  # fmt: skip
        changes = [self.segmenter.input, self.classifier.input, self.sequence.input]
        self._follow(gr.on(changes, trigger_mode="always_last", **self.run))
        self._follow(pressed.success(**self.run))  # a double click is one analysis
        for event in (*received, chosen):
            self.analyse_after(event)
        for event in (picked, *received):
            event.failure(self.fail, None, outputs, **PRIVATE)
        self._explain_after(self.panel.ask.click)

    def analyse_after(self, event: Dependency) -> None:
        """Analyse the selected input when an event has succeeded, also if it comes while an earlier one is analysed."""
        self._follow(event.success(trigger_mode="multiple", **self.run))

    def _follow(self, analysis: Dependency) -> None:
        """Show the failure of an analysis, and explain its result."""
        analysis.failure(self.fail, None, self.run["outputs"], **PRIVATE)
        self._explain_after(analysis.success)

    def _explain_after(self, event: Callable[..., Dependency]) -> None:
        """Explain the result that is shown, after an event."""
        explanation = event(
            self.explain, [self.files, self.item, self.panel.token], self.panel.explained, api_visibility="private",
            show_progress_on=self.panel.explanation, trigger_mode="multiple", **GPU,
        )  # fmt: skip
        explanation.failure(lambda: self.panel.offer_why(NOT_EXPLAINED), None, self.panel.explained, **PRIVATE)

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
            refused = self.panel.numbered(self.panel.refuse(error, name), latest, refused=True) | unmarked | {self.files: None}
            return refused if upload == latest.upload else gr.skip()
        if upload != latest.upload:
            return gr.skip()
        choices = [(one.label, encode(one, uploaded)) for one in found]
        example = example_of(StudyFile(path=Path(uploaded[0])).digest()) if len(uploaded) == 1 else None
        marked = self.shown_examples.index(example) if example else None
        return {
            self.items: gr.Radio(choices, value=choices[0][1], label=f"{len(found)} inputs"),
            self.several: gr.Column(visible=True) if len(found) > 1 else hide,
            self.table: gr.DownloadButton(visible=False),
            self.rows: "",
            self.gallery: gr.Gallery(selected_index=marked),
            **self.choose(uploaded, choices[0][1], request),
        }

    def choose(self, files: list[str], item: str, request: gr.Request) -> dict:
        """Select an input, and fill the sequence fields with its volumes or series; show them if there is a choice.

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
        return {self.item: item, self.selection: gr.Column(visible=len(choices) > 1), self.sequence: "", **updates}

    def require_files(self, files: list[str] | None) -> None:
        """Say so if there is nothing to analyse; what is shown stays, like a reopened result, which has no files."""
        if not files:
            raise gr.Error(NOTHING, title="Nothing to analyse", print_exception=False)

    @skip_if_superseded
    def analyse(
        self, files: list[str] | None, item: str | None, segmenter: str, classifier: str, sequence: str,
        flair: str | None, pre: str | None, post: str | None, request: gr.Request, progress=gr.Progress(),
    ) -> dict:  # fmt: skip
        """Analyse the selected input and show the result; nothing happens without files, or once a newer input is given."""
        latest = latest_of(request)
        if not files or not item or latest.replaced(files, item):
            return gr.skip()
        check = latest.watch(files, item)
        shown = self.answer(files, item, segmenter, classifier, sequence, (flair, pre, post), progress, check)
        return gr.skip() if latest.replaced(files, item) else self.panel.numbered(shown, latest)

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
                    scan = read_input(chosen)
                    record_scan_size(scan)
                    if ZERO_GPU:  # a call of its own for the explanation would wait for a GPU again
                        finding, explained = analyse_and_explain_slice(scan, segmenter, classifier, None, sequence or None)
                    else:
                        finding, explained = analyse_slice(scan, segmenter, classifier, None, sequence or None, check), None
                    return self.panel.show_slice(scan, finding, (segmenter, classifier, sequence or None), explained)
                given = selected(fields, item, chosen)
                if given[0] == ABSENT and chosen.candidates and chosen.study is None:
                    prompt = select_flair([candidate.label for candidate in chosen.candidates])
                    return self.panel.clear() | {self.panel.box: prompt, self.current: unseen_input(label, "?")}
                progress((0, None), desc="Reading")
                scan = read_input(chosen, own_assignment(given, chosen))
                record_scan_size(scan)

                def slices(done: int, total: int) -> None:
                    check()
                    progress((done, total), desc="Analysing", unit="slices")

                if ZERO_GPU:  # the analysis runs in another process and cannot report progress
                    found, explained = analyse_and_explain_study(scan, segmenter, classifier, None)
                else:
                    found, explained = analyse_study(scan, segmenter, classifier, None, slices), None
                check()
                progress((0, None), desc="Writing files")
                return self.panel.show_study(scan, found, chosen.label, (segmenter, classifier, None), explained)
        except gr.Error as error:
            return self.panel.refuse(error, label)

    @skip_if_superseded
    def explain(self, files: list[str] | None, item: str | None, token: str | None, request: gr.Request) -> dict:
        """Explain the verdict on a slice, of a study the likeliest, and test the outline's stability.

        This is slower, so it runs after the verdict. Nothing happens for what is explained already or cannot be.
        """
        latest, given = latest_of(request), files or []  # none with a reopened result
        if not token or latest.replaced(given, item):
            return gr.skip()
        try:
            with errors_as_messages(FAILED):
                if kept_why(token) or not has_question(token):
                    return gr.skip()
                why = explain_result(token, latest.watch(given, item))
        except gr.Error:
            record_refusal()
            return self.panel.offer_why(NOT_EXPLAINED)
        return gr.skip() if latest.replaced(given, item) else self.panel.show_why(why)

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

    def reopen(self, token: str | None) -> dict:
        """Show the result that the page's address names; its input is not known any more, and no example stands in for it."""
        if not token:
            return gr.skip()
        return self.panel.reopen(token) | {self.files: None, self.gallery: gr.Gallery(selected_index=None)}

    def fail(self, request: gr.Request) -> dict:
        """The updates after an error of the server."""
        return self.panel.fail(latest_of(request))
