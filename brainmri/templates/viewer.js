// The viewer of slices and studies, on the page and in the report. All data is embedded; nothing is fetched.
async function mountViewer(root) {
  const find = (selector) => root.querySelector(selector), all = (selector) => [...root.querySelectorAll(selector)];
  const on = (selector, event, listener) => all(selector).forEach((one) => one.addEventListener(event, listener));
  const data = JSON.parse(find(".viewer-data").content.textContent), [slices, height, width] = data.shape;
  const state = {
    data, view: data.plain ? "original" : "overlay", style: "both", opacity: 0.35, brightness: 1, contrast: 1, swipe: 1, zoom: 1, planes: false,
    tool: "browse", brush: 6, sequence: data.sequence, position: [data.first, Math.floor(height / 2), Math.floor(width / 2)],
  };
  state.mask = new ViewerMask(data, await gunzip(bytesOf(data.levels)));
  let panes = [];
  state.images = new ViewerImages(data.images, (slice) => {
    if (state.planes || slice === state.position[0]) schedule();
  });
  const projection = data.projection && new ViewerProjection(find(".viewer-rotation canvas"), data.projection, state, schedule);
  panes = all(".viewer-pane").map((element, n) => new ViewerPane(element, data.panes[n], state));

  let scheduled = false;
  function schedule() {
    if (!scheduled) requestAnimationFrame(() => { scheduled = false; [...panes, ...(projection ? [projection] : [])].forEach((one) => one.draw()); });
    scheduled = true;
  }

  // --- words ---------------------------------------------------------------------------------------------------------------

  const format = (number, digits = 0) => number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const areaWords = (voxels) => (data.pixel_mm2 ? `${format((voxels * data.pixel_mm2) / 100, 1)} cm²` : `${format(voxels)} pixels`);
  const changed = () => state.mask.edited || state.mask.threshold !== data.threshold;

  function describe() {
    const slice = state.position[0], area = state.mask.areas[slice], total = state.mask.total;
    const outlined = area ? `${areaWords(area)} outlined` : "nothing outlined";
    const words = data.plain ? data.captions[slice] : `${data.captions[slice]}, ${outlined}`;
    find(".viewer-caption").textContent = words;
    panes[0].element.setAttribute("aria-label", words);
    find(".viewer-number")?.setAttribute("aria-valuetext", words);
    const size = data.voxel_mm3 ? `${format((total * data.voxel_mm3) / 1000, 1)} mL` : slices > 1 ? `${format(total)} voxels` : areaWords(total);
    find(".viewer-total").textContent = total ? `Outlined: ${size}${slices > 1 ? " in total" : ""}.` : "Outlined: nothing.";
    const threshold = state.mask.threshold !== data.threshold && `The threshold was moved to ${state.mask.threshold}.`;
    const others = slices > 1 ? "The verdict, the table of lesions, the downloaded report and the zip" : "The verdict and the zip";
    const notes = [threshold, state.mask.edited && "The mask was edited by hand.", changed() && `${others} use the model's mask (threshold ${data.threshold}).`];
    find(".viewer-note").textContent = notes.filter(Boolean).join(" ");
    find(".viewer-note").hidden = !changed();
    find(".viewer-reset").disabled = !changed();
    find(".viewer-undo").disabled = !state.mask.strokes.length;
  }

  // --- slices and chart ----------------------------------------------------------------------------------------------------

  function show(position) {
    state.position = position.map((index, axis) => Math.min(Math.max(index, 0), data.shape[axis] - 1));
    const slice = state.position[0], current = find(".study-chart .current");
    if (find(".viewer-number")) find(".viewer-number").value = slice + 1;
    if (current) {
      const column = find(`.study-chart .hit[data-slice="${slice + 1}"]`);
      ["x", "width"].forEach((name) => current.setAttribute(name, column.getAttribute(name)));
    }
    describe();
    schedule();
  }

  const showSlice = (slice) => show([slice, ...state.position.slice(1)]);
  const step = (by) => showSlice(state.position[0] + by);

  // Bars of the chart: their area is that of the current mask.
  function drawBars() {
    const chart = find(".study-chart");
    if (!chart) return;
    const { top, height: tall } = chart.dataset, areas = [...state.mask.areas], unit = data.pixel_mm2 ? data.pixel_mm2 / 100 : 1;
    const largest = Math.max(...areas);
    chart.querySelectorAll(".area").forEach((bar) => {
      const length = (Number(tall) * areas[bar.dataset.slice - 1]) / (largest || 1);
      bar.setAttribute("y", Number(top) + Number(tall) - length);
      bar.setAttribute("height", length);
    });
    chart.querySelector(".largest").textContent = largest ? format(largest * unit, data.pixel_mm2 ? 1 : 0) : "";
  }

  function maskChanged() {
    drawBars();
    describe();
    schedule();
  }

  // --- threshold -----------------------------------------------------------------------------------------------------------

  function setThreshold(threshold) {
    if (!(threshold >= 0.05 && threshold <= 0.95)) return;
    state.mask.cut(threshold);
    showThreshold();
    maskChanged();
  }

  function showThreshold() {
    find(".viewer-threshold").value = state.mask.threshold;
    if (document.activeElement !== find(".viewer-threshold-number")) find(".viewer-threshold-number").value = state.mask.threshold;
  }

  on(".viewer-threshold, .viewer-threshold-number", "input", (event) => setThreshold(Number(event.target.value)));
  on(".viewer-threshold-number", "change", (event) => { // on Enter, and when the focus leaves
    const { value, min, max } = event.target;
    if (value) setThreshold(Math.min(Math.max(Number(value), min), max));
    event.target.value = state.mask.threshold;
  });
  on(".viewer-reset", "click", () => {
    state.mask.reset(data.threshold);
    showThreshold();
    maskChanged();
  });

  // --- views and display ---------------------------------------------------------------------------------------------------

  function press(selector, chosen) {
    all(selector).forEach((button) => button.setAttribute("aria-pressed", String(button === chosen)));
  }

  function setView(view) {
    if (data.plain) return;
    state.view = view;
    press(".viewer-views button", find(`[data-view="${view}"]`));
    find(".viewer-legend").hidden = view !== "heat";
    schedule();
  }

  function setPlanes(planes) {
    state.planes = planes;
    find(".viewer-planes").setAttribute("aria-pressed", String(planes));
    root.classList.toggle("planes", planes);
    panes.forEach((pane, n) => { pane.element.hidden = n > 0 && !planes; });
    schedule();
  }

  function setTool(tool) {
    state.tool = tool;
    press(".viewer-correct [data-tool]", find(`[data-tool="${tool}"]`));
    root.classList.toggle("drawing", tool !== "browse");
    if (tool !== "browse" && state.view !== "mask") setView("overlay");
    schedule();
  }

  function setZoom(zoom) {
    state.zoom = Math.min(Math.max(zoom, 1), 8);
    find(".viewer-zoom").value = state.zoom;
    root.classList.toggle("zoomed", state.zoom > 1);
    schedule();
  }

  on(".viewer-views button", "click", (event) => setView(event.currentTarget.dataset.view));
  on(".viewer-planes", "click", () => setPlanes(!state.planes));
  on(".viewer-correct [data-tool]", "click", (event) => setTool(event.currentTarget.dataset.tool));
  const undo = () => { state.mask.undo(); maskChanged(); };
  on(".viewer-undo", "click", undo);
  root.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key !== "z" || event.target.type === "number") return;
    undo();
    event.preventDefault();
  });
  on(".viewer-zoom", "input", (event) => setZoom(Number(event.target.value)));
  on(".viewer-style", "change", (event) => { state.style = event.target.value; schedule(); });
  on(".viewer-sequence", "change", (event) => { state.sequence = Number(event.target.value); schedule(); });
  on(".viewer-swipe", "input", (event) => { state.swipe = Number(event.target.value) / 100; schedule(); });
  for (const name of ["opacity", "brightness", "contrast", "brush"]) {
    on(`.viewer-${name}`, "input", (event) => { state[name] = Number(event.target.value); schedule(); });
  }
  on(".viewer-number", "input", (event) => showSlice(Number(event.target.value) - 1));
  on(".viewer-previous", "click", () => step(-1));
  on(".viewer-next", "click", () => step(1));
  on(".study-chart", "click", (event) => {
    const slice = event.target.closest(".hit")?.dataset.slice;
    if (slice) showSlice(Number(slice) - 1);
  });
  on(".viewer-angle", "input", (event) => { projection.angle = Number(event.target.value); schedule(); });
  const fullScreen = find(".viewer-fullscreen");
  fullScreen.hidden = !document.fullscreenEnabled;
  fullScreen.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()));
  root.addEventListener("fullscreenchange", () => fullScreen.setAttribute("aria-pressed", String(document.fullscreenElement === root)));

  // --- downloads -----------------------------------------------------------------------------------------------------------

  const stem = data.name.replace(/\.gz$/, "").replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "_") || "mask";
  const description = () => (state.mask.edited ? "edited by hand" : "");

  on(".viewer-save-mask", "click", async () => {
    if (!data.nifti) return saveFile(`${stem}.mask.png`, await maskPng(state.mask, data.orientation, description()), "image/png");
    saveFile(`${stem}.mask.nii.gz`, [await niftiFile(state.mask, data.nifti, description())], "application/gzip");
  });
  on(".viewer-save-segmentation", "click", async () => {
    saveFile(`${stem}.mask.dcm`, await segmentationFile(state.mask, data.nifti, data.segmentation), "application/dicom");
  });
  on(".viewer-save-record", "click", () => {
    const text = JSON.stringify(viewerRecord(data, state.mask), null, 2);
    saveFile(`${stem}.${slices > 1 ? "study" : "finding"}.json`, [`${text}\n`], "application/json");
  });
  on(".viewer-save-picture", "click", () => {
    const { image, marks } = panes[0], { width, height } = image, picture = Object.assign(document.createElement("canvas"), { width, height });
    const context = picture.getContext("2d");
    context.filter = image.style.filter;
    context.fillRect(0, 0, width, height);
    context.drawImage(image, 0, 0);
    context.filter = "none";
    context.drawImage(marks, 0, 0);
    picture.toBlob((blob) => saveFile(`${stem}.${state.view}${slices > 1 ? `-${state.position[0] + 1}` : ""}.png`, [blob], "image/png"));
  });

  // --- a second viewer of the same result, such as the one in a printed report ------------------------------------------------

  root.shown = () => {
    const { data: _data, mask, images: _images, ...display } = state;
    return { display, centres: panes.map((pane) => pane.centre), threshold: mask.threshold, edits: [...mask.edits] };
  };

  // Show what another viewer's `shown` returned; resolves when its pictures are decoded and drawn.
  root.mirror = async ({ display, centres, threshold, edits }) => {
    Object.assign(state, display);
    panes.forEach((pane, n) => { pane.centre = centres[n]; });
    state.mask.restore(threshold, edits);
    showThreshold();
    setView(display.view);
    setZoom(display.zoom);
    if (find(".viewer-planes")) setPlanes(display.planes);
    drawBars();
    show(display.position);
    state.images.volumes(state.sequence);
    await state.images.decoding();
    panes.forEach((pane) => pane.draw());
  };

  panes.forEach((pane) => listenToPane(pane, { state, show, step, setZoom, setView, setTool, schedule, maskChanged }));
  new ResizeObserver(schedule).observe(find(".viewer-panes"));
  drawBars();
  show(state.mask.centreOf(data.first) ?? state.position);
}

// The record of the analysis with the mask as it is now.
function viewerRecord(data, mask) {
  const { total, edited, threshold } = mask, record = { input: data.name, ...data.record };
  const round = (number, digits) => Number(number.toFixed(digits));
  const area = (voxels) => (data.pixel_mm2 ? round(voxels * data.pixel_mm2, 1) : null);
  record.mask = { edited_by_hand: edited, voxels_edited: mask.edits.size, threshold, model_threshold: data.threshold };
  if (!edited && threshold === data.threshold) return record;
  if (!data.nifti) return Object.assign(record, { area_px: total, area_mm2: area(total) });
  const volume = data.voxel_mm3 ? round(total * data.voxel_mm3, 1) : null;
  Object.assign(record, { lesion_voxels: total, lesion_volume_mm3: volume, lesion_volume_ml: volume === null ? null : round(volume / 1000, 3) });
  record.per_slice = record.per_slice.map((row, slice) => ({ ...row, area_px: mask.areas[slice], area_mm2: area(mask.areas[slice]) }));
  // not measured anew for a changed mask
  for (const row of [record, ...record.per_slice]) {
    for (const name of Object.keys(row)) if (/^lesions$|^lesion_count$|diameter/.test(name)) row[name] = null;
  }
  return record;
}

// Mouse, touch, wheel and keyboard on one view.
function listenToPane(pane, { state, show, step, setZoom, setView, setTool, schedule, maskChanged }) {
  const { element } = pane, through = pane.axes[2], pointers = new Map(), several = state.data.shape[through] > 1;
  let drag = null;
  const along = (by) => show(state.position.map((index, axis) => index + (axis === through ? by : 0)));
  const drawing = () => state.tool !== "browse", value = () => (state.tool === "brush" ? 1 : 0);
  const spread = () => { const [a, b] = [...pointers.values()]; return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY); };

  function paintAt(event) {
    const voxel = pane.voxelAt(event.clientX, event.clientY);
    if (!voxel) return;
    pane.paint(voxel, value());
    schedule();
  }

  function endStroke() {
    state.mask.endStroke();
    maskChanged();
  }

  element.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    element.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    if (pointers.size === 2) {
      if (drag?.painting) { state.mask.undo(); maskChanged(); }
      drag = { pinch: spread(), zoom: state.zoom };
    } else if (pointers.size === 1) {
      drag = { painting: drawing(), x: event.clientX, y: event.clientY, moved: 0 };
      if (drag.painting) { state.mask.beginStroke(); paintAt(event); }
      else if (state.planes) moveCrosshair(event);
    }
  });

  function moveCrosshair(event) {
    const voxel = pane.voxelAt(event.clientX, event.clientY);
    if (voxel) show(voxel);
  }

  element.addEventListener("pointermove", (event) => {
    if (drawing()) {
      const voxel = pane.voxelAt(event.clientX, event.clientY);
      pane.cursor = voxel && [voxel[pane.axes[0]], voxel[pane.axes[1]]];
      schedule();
    }
    if (!pointers.has(event.pointerId) || !drag) return;
    pointers.set(event.pointerId, event);
    if (drag.pinch) return pointers.size === 2 && setZoom((drag.zoom * spread()) / drag.pinch);
    const [right, down] = [event.clientX - drag.x, event.clientY - drag.y];
    if (drag.painting) return event.getCoalescedEvents().concat(event).forEach(paintAt);
    if (state.planes) return moveCrosshair(event);
    if (state.zoom > 1) {
      pane.pan(-right / element.clientWidth, -down / element.clientHeight);
      return Object.assign(drag, { x: event.clientX, y: event.clientY });
    }
    const by = Math.round((Math.abs(right) > Math.abs(down) ? right : -down) / 8) - drag.moved;
    if (several && by) { drag.moved += by; along(by); }
  });

  for (const name of ["pointerup", "pointercancel"]) {
    element.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (drag?.painting && !pointers.size) endStroke();
      if (!pointers.size) drag = null;
    });
  }
  element.addEventListener("pointerleave", () => { if (!drag) { pane.cursor = null; schedule(); } });

  element.addEventListener("wheel", (event) => {
    if (event.ctrlKey) {
      event.preventDefault();
      setZoom(state.zoom * Math.exp(-event.deltaY / 300));
      return;
    }
    const before = state.position[through];
    if (several) along(-Math.sign(event.deltaY));
    if (state.position[through] !== before) event.preventDefault(); // at the last slice, the page scrolls
  }, { passive: false });

  const views = ["original", "overlay", "mask", "heat"];
  const keys = {
    PageDown: () => along(-5), PageUp: () => along(5), Home: () => along(-Infinity), End: () => along(Infinity),
    "+": () => setZoom(state.zoom * 1.25), "=": () => setZoom(state.zoom * 1.25), "-": () => setZoom(state.zoom / 1.25), 0: () => setZoom(1),
    v: () => setView(views[(views.indexOf(state.view) + 1) % views.length]), Escape: () => setTool("browse"),
  };
  const arrows = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  function moveCursor([down, right], by) {
    const signs = pane.flips.map((flipped) => (flipped ? -1 : 1)), start = pane.cursor ?? pane.size.map((side) => Math.floor(side / 2));
    pane.cursor = [down * signs[0], right * signs[1]].map((move, n) => Math.min(Math.max(start[n] + by * move, 0), pane.size[n] - 1));
    schedule();
  }

  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = arrows[event.key];
    if (drawing() && arrow) moveCursor(arrow, event.shiftKey ? 10 : 1);
    else if (drawing() && event.key === " ") {
      const [row, column] = pane.cursor ?? pane.size.map((side) => Math.floor(side / 2));
      state.mask.beginStroke();
      pane.paint(pane.voxel(row, column), value());
      endStroke();
    } else if (arrow && several) along(arrow[1] - arrow[0]);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
  });
}
