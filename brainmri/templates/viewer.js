// Flips through a study's slices; every picture is in the page already, so nothing is fetched.
function mountStudyViewer(root) {
  const find = (selector) => root.querySelector(selector);
  const { frames, projections } = JSON.parse(find(".study-data").content.textContent);
  const stage = find(".study-stage"), flair = find(".study-flair"), layer = find(".study-layer");
  const number = find(".study-number"), words = find(".study-words"), here = find(".study-chart .here");
  const blank = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
  let view = "overlay";

  function show(wanted) {
    const slice = Math.min(Math.max(wanted, 1), frames.length), frame = frames[slice - 1];
    number.value = slice;
    number.setAttribute("aria-valuetext", frame.words);
    flair.src = frame.flair;
    layer.src = (view !== "flair" && frame[view]) || blank;
    stage.setAttribute("aria-label", frame.words);
    words.textContent = frame.words;
    const mark = find(`.study-chart .hit[data-slice="${slice}"]`);
    here.setAttribute("x", mark.getAttribute("x"));
    here.setAttribute("width", mark.getAttribute("width"));
  }
  const step = (by) => show(Number(number.value) + by);

  number.addEventListener("input", () => show(Number(number.value)));
  find(".study-back").addEventListener("click", () => step(-1));
  find(".study-on").addEventListener("click", () => step(1));
  stage.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by);
  });
  root.querySelectorAll(".study-views button").forEach((button) => button.addEventListener("click", () => {
    view = button.dataset.view;
    root.querySelectorAll(".study-views button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    step(0);
  }));
  find(".study-chart").addEventListener("click", (event) => {
    const slice = event.target.closest(".hit")?.dataset.slice;
    if (slice) show(Number(slice));
  });
  find(".study-angle")?.addEventListener("input", (event) => {
    find(".study-turn img").src = projections[Number(event.target.value)];
  });
  step(0);
}
