// The slice viewer of a study. All pictures are embedded in the page; nothing is fetched.
function mountStudyViewer(root) {
  const find = (selector) => root.querySelector(selector);
  const { frames, projections } = JSON.parse(find(".study-data").content.textContent);
  const stage = find(".study-stage"), flair = find(".study-flair"), overlay = find(".study-layer");
  const number = find(".study-number"), caption = find(".study-caption"), current = find(".study-chart .current");
  const blank = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw==";
  let layer = "overlay";

  function show(requested) {
    const slice = Math.min(Math.max(requested, 1), frames.length), frame = frames[slice - 1];
    number.value = slice;
    number.setAttribute("aria-valuetext", frame.caption);
    flair.src = frame.flair;
    overlay.src = (layer !== "flair" && frame[layer]) || blank;
    stage.setAttribute("aria-label", frame.caption);
    caption.textContent = frame.caption;
    const column = find(`.study-chart .hit[data-slice="${slice}"]`);
    current.setAttribute("x", column.getAttribute("x"));
    current.setAttribute("width", column.getAttribute("width"));
  }
  const step = (by) => show(Number(number.value) + by);

  number.addEventListener("input", () => show(Number(number.value)));
  find(".study-previous").addEventListener("click", () => step(-1));
  find(".study-next").addEventListener("click", () => step(1));
  stage.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    step(by);
  });
  root.querySelectorAll(".study-layers button").forEach((button) => button.addEventListener("click", () => {
    layer = button.dataset.layer;
    root.querySelectorAll(".study-layers button").forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
    step(0);
  }));
  find(".study-chart").addEventListener("click", (event) => {
    const slice = event.target.closest(".hit")?.dataset.slice;
    if (slice) show(Number(slice));
  });
  find(".study-angle")?.addEventListener("input", (event) => {
    find(".study-rotation img").src = projections[Number(event.target.value)];
  });
  step(0);
}
