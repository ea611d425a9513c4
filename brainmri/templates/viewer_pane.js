// One view of a viewer: two canvases, one with the image and one with mask, heat map, crosshair and brush.
const VIEWER_COLOURS = { fill: [255, 92, 60], outline: "rgb(255 220 80)", line: "rgb(94 234 212 / 0.8)" };

// The pixels of a plane through a volume (three axes of `shape`), row by row.
function planeOf(volume, shape, [vertical, horizontal, through], position) {
  const strides = [shape[1] * shape[2], shape[2], 1], pixels = new Uint8Array(shape[vertical] * shape[horizontal]);
  let n = 0;
  for (let v = 0; v < shape[vertical]; v++) {
    let voxel = position * strides[through] + v * strides[vertical];
    for (let h = 0; h < shape[horizontal]; h++, voxel += strides[horizontal]) pixels[n++] = volume[voxel];
  }
  return pixels;
}

// A canvas with the pixels' colours; `colour(value, rgba, offset)` writes four bytes.
function paintedCanvas(pixels, width, colour) {
  const canvas = new OffscreenCanvas(width, pixels.length / width), context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  pixels.forEach((value, n) => colour(value, image.data, 4 * n));
  context.putImageData(image, 0, 0);
  return canvas;
}

// Add the edges between a mask's pixels and the others to the context's path.
function traceOutline(context, mask, width) {
  const height = mask.length / width, at = (x, y) => (x >= 0 && y >= 0 && x < width && y < height ? mask[y * width + x] : 0);
  const lines = (across, along, differs, line) => {
    for (let a = 0; a <= across; a++) {
      for (let b = 0; b < along; b++) {
        if (!differs(a, b)) continue;
        const start = b;
        while (b < along && differs(a, b)) b++;
        line(a, start, b);
      }
    }
  };
  lines(height, width, (y, x) => at(x, y) !== at(x, y - 1), (y, from, to) => { context.moveTo(from, y); context.lineTo(to, y); });
  lines(width, height, (x, y) => at(x, y) !== at(x - 1, y), (x, from, to) => { context.moveTo(x, from); context.lineTo(x, to); });
}

class ViewerPane {
  // element: of the template; axes: {axes: [vertical, horizontal, through], flips: [vertical, horizontal]}; state: the viewer's
  constructor(element, { axes, flips }, state) {
    Object.assign(this, { element, axes, flips, state, centre: [0.5, 0.5], cursor: null });
    this.image = element.querySelector(".viewer-image");
    this.marks = element.querySelector(".viewer-marks");
    this.size = [state.data.shape[axes[0]], state.data.shape[axes[1]]]; // rows, columns
    this.lengths = this.size.map((count, n) => count * state.data.proportions[axes[n]]);
  }

  get position() {
    return this.state.position[this.axes[2]];
  }

  // Scale and offset from voxels (column, row) to pixels of the canvas.
  get transform() {
    const { width, height } = this.marks, [tall, wide] = this.lengths;
    const scale = Math.min(width / wide, height / tall) * this.state.zoom;
    const places = [[wide, width, 1], [tall, height, 0]].map(([length, side, axis]) => {
      const shown = length * scale, room = Math.max(0, shown - side);
      const start = shown <= side ? (side - shown) / 2 : -Math.min(Math.max(this.centre[axis] * shown - side / 2, 0), room);
      const step = shown / this.size[axis];
      return this.flips[axis] ? [-step, start + shown] : [step, start];
    });
    return { x: places[0], y: places[1] };
  }

  // Voxel indices (slice, row, column) under a pointer; null outside the picture.
  voxelAt(clientX, clientY) {
    const box = this.marks.getBoundingClientRect(), { x, y } = this.transform;
    const column = ((clientX - box.left) * this.marks.width / box.width - x[1]) / x[0];
    const row = ((clientY - box.top) * this.marks.height / box.height - y[1]) / y[0];
    if (row < 0 || column < 0 || row >= this.size[0] || column >= this.size[1]) return null;
    return this.voxel(Math.floor(row), Math.floor(column));
  }

  voxel(row, column) {
    const voxel = [...this.state.position];
    voxel[this.axes[0]] = row;
    voxel[this.axes[1]] = column;
    return voxel;
  }

  // Move the part that a zoomed picture shows, by a share of the picture.
  pan(right, down) {
    const move = (axis, by) => Math.min(Math.max(this.centre[axis] + by / this.state.zoom, 0), 1);
    this.centre = [move(0, down), move(1, right)];
    this.draw();
  }

  // Fit the canvases to the element, and draw.
  draw() {
    const ratio = window.devicePixelRatio || 1, { clientWidth, clientHeight } = this.element;
    if (!clientWidth) return;
    for (const canvas of [this.image, this.marks]) {
      const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
    this.image.style.filter = `brightness(${this.state.brightness}) contrast(${this.state.contrast})`;
    this.drawImage();
    this.drawMarks(ratio);
  }

  place(context) {
    const { x, y } = this.transform;
    context.setTransform(x[0], 0, 0, y[0], x[1], y[1]);
  }

  drawImage() {
    const { state, axes } = this, context = this.image.getContext("2d"), { width, height } = this.image;
    const shown = [state.view === "mask", state.sequence, state.images.loaded, this.position, state.zoom, this.centre, width, height].join();
    if (shown === this.drawn) return; // a change of the mask redraws only the marks
    this.drawn = shown;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (state.view === "mask") return;
    const shape = state.images.shape, volumes = state.images.volumes(state.sequence);
    const position = Math.floor(((this.position + 0.5) * shape[axes[2]]) / state.data.shape[axes[2]]);
    const [red, green, blue] = volumes.map((volume) => planeOf(volume, shape, axes, position));
    const picture = paintedCanvas(red, shape[axes[1]], (value, rgba, offset) => {
      rgba[offset] = value;
      rgba[offset + 1] = green ? green[offset / 4] : value;
      rgba[offset + 2] = blue ? blue[offset / 4] : value;
      rgba[offset + 3] = 255;
    });
    this.place(context);
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, this.size[1], this.size[0]);
  }

  drawMarks(ratio) {
    const { state } = this, context = this.marks.getContext("2d"), { width, height } = this.marks;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (state.view !== "original") {
      context.save();
      context.beginPath();
      context.rect(0, 0, width * state.swipe, height);
      context.clip();
      this.drawLayer(context, ratio);
      context.restore();
      context.setTransform(1, 0, 0, 1, 0, 0);
      if (state.swipe < 1) {
        context.fillStyle = VIEWER_COLOURS.line;
        context.fillRect(width * state.swipe - ratio, 0, 2 * ratio, height);
      }
    }
    if (state.planes) this.drawCrosshair(context, ratio);
    if (this.cursor && state.tool !== "browse") this.drawCursor(context, ratio);
  }

  drawLayer(context, ratio) {
    const { state, axes } = this, { shape } = state.data, width = this.size[1];
    this.place(context);
    if (state.view === "heat") {
      const levels = planeOf(state.mask.levels, shape, axes, this.position), { edges } = state.data;
      const heat = paintedCanvas(levels, width, (level, rgba, offset) => {
        const p = level ? (edges[level - 1] + (edges[level] ?? 1)) / 2 : 0;
        rgba.set([255 * Math.min(2 * p, 1), 255 * Math.max(2 * p - 1, 0), 0, 255 * Math.min(1.5 * p, 0.7)], offset);
      });
      context.drawImage(heat, 0, 0, width, this.size[0]);
      return;
    }
    const mask = planeOf(state.mask.voxels, shape, axes, this.position), plain = state.view === "mask";
    if (plain || state.style !== "outline") {
      const colour = plain ? [255, 255, 255] : VIEWER_COLOURS.fill, alpha = plain ? 255 : Math.round(255 * state.opacity);
      const fill = paintedCanvas(mask, width, (value, rgba, offset) => { if (value) rgba.set([...colour, alpha], offset); });
      context.imageSmoothingEnabled = false;
      context.drawImage(fill, 0, 0, width, this.size[0]);
    }
    if (!plain && state.style !== "fill") {
      context.beginPath();
      traceOutline(context, mask, width);
      context.setTransform(1, 0, 0, 1, 0, 0);
      Object.assign(context, { lineWidth: 1.5 * ratio, lineCap: "square", strokeStyle: VIEWER_COLOURS.outline });
      context.stroke();
    }
  }

  drawCrosshair(context, ratio) {
    const { x, y } = this.transform, { position } = this.state, { width, height } = this.marks;
    const across = y[0] * (position[this.axes[0]] + 0.5) + y[1], down = x[0] * (position[this.axes[1]] + 0.5) + x[1];
    context.fillStyle = VIEWER_COLOURS.line;
    context.fillRect(0, across - ratio / 2, width, ratio);
    context.fillRect(down - ratio / 2, 0, ratio, height);
  }

  drawCursor(context, ratio) {
    this.place(context);
    context.beginPath();
    const [row, column] = this.cursor, { proportions } = this.state.data;
    const radius = this.state.brush, squash = proportions[this.axes[1]] / proportions[this.axes[0]];
    context.ellipse(column + 0.5, row + 0.5, radius, radius * squash, 0, 0, 2 * Math.PI);
    context.setTransform(1, 0, 0, 1, 0, 0);
    Object.assign(context, { lineWidth: 1.5 * ratio, strokeStyle: "white" });
    context.stroke();
  }

  // Paint or erase a disc of the brush's size at voxel indices.
  paint(voxel, value) {
    const { state } = this, { shape, proportions } = state.data, [vertical, horizontal] = this.axes;
    const squash = proportions[horizontal] / proportions[vertical], radius = state.brush - 0.5, reach = Math.ceil(radius * squash);
    this.cursor = [voxel[vertical], voxel[horizontal]];
    for (let v = -reach; v <= reach; v++) {
      for (let h = -Math.ceil(radius); h <= radius; h++) {
        const at = [...voxel];
        at[vertical] += v;
        at[horizontal] += h;
        const inside = [vertical, horizontal].every((axis) => at[axis] >= 0 && at[axis] < shape[axis]);
        if (inside && Math.hypot(v / squash, h) <= radius) state.mask.paint((at[0] * shape[1] + at[1]) * shape[2] + at[2], value);
      }
    }
  }
}
