// The head from all around, with the mask over it, more opaque where it is thicker.
class ViewerProjection {
  // canvas: of the template; data: see `projection_data` in `brainmri/report/viewer.py`; state: the viewer's; loaded: called when
  // a picture of the head is decoded
  constructor(canvas, data, state, loaded) {
    Object.assign(this, { canvas, data, state, heads: [], angle: 0 });
    // of the square pictures, the rows with the head and the margin
    const { side, margin, axes } = data, { shape, proportions } = state.data, lengths = shape.map((count, axis) => count * proportions[axis]);
    const tall = lengths[axes[0]] / Math.max(...lengths);
    Object.assign(canvas, { width: side, height: Math.round(side * (1 - (1 - tall) / margin)) });
    data.frames.forEach((source, n) => {
      const image = Object.assign(new Image(), { src: source });
      image.decode().then(() => {
        this.heads[n] = image;
        loaded();
      });
    });
  }

  draw() {
    const { state } = this, views = this.data.frames.length, behind = this.angle >= views, head = this.heads[this.angle % views];
    const shown = [this.angle, state.view === "original", state.mask.version].join();
    if (!head || shown === this.drawn) return;
    this.drawn = shown;
    const context = this.canvas.getContext("2d"), { width, height } = this.canvas;
    context.setTransform(behind ? -1 : 1, 0, 0, 1, behind ? width : 0, (height - width) / 2); // the view from behind is the mirror image
    context.drawImage(head, 0, 0);
    if (state.view === "original") return;
    const thickness = this.thickness((this.angle % views) * (Math.PI / views)), thickest = thickness.reduce((a, b) => Math.max(a, b), 0);
    const marks = paintedCanvas(thickness, width, (value, rgba, offset) => {
      if (value) rgba.set([...VIEWER_COLOURS.fill, 255 * Math.min((2 * value) / thickest, 0.9)], offset);
    });
    context.drawImage(marks, 0, 0);
  }

  // The mask's thickness along the line of sight at each pixel, in any unit.
  thickness(angle) {
    const { shape, proportions } = this.state.data, { axes, flips, margin } = this.data, side = this.canvas.width;
    const scale = side / (margin * Math.max(...shape.map((count, axis) => count * proportions[axis])));
    const found = new Float32Array(side * side), half = [0, 0]; // of a voxel's width and height in the picture
    const right = [], down = []; // by axis and index, what a voxel's place in the picture is the sum of
    [[0, -1], [Math.sin(angle), 0], [Math.cos(angle), 0]].forEach(([across, along], n) => {
      const axis = axes[n], step = (flips[n] ? -1 : 1) * proportions[axis] * scale;
      const places = Float32Array.from({ length: shape[axis] }, (_, index) => step * (index + 0.5 - shape[axis] / 2));
      [right[axis], down[axis]] = [places.map((place) => place * across), places.map((place) => place * along)];
      half[0] += Math.abs(step * across) / 2;
      half[1] += Math.abs(step * along) / 2;
    });
    this.state.mask.visit((slice, row, column) => {
      const x = side / 2 + right[0][slice] + right[1][row] + right[2][column], y = side / 2 + down[0][slice] + down[1][row] + down[2][column];
      for (let v = Math.floor(y - half[1]); v < y + half[1]; v++) {
        const high = Math.min(v + 1, y + half[1]) - Math.max(v, y - half[1]);
        for (let h = Math.max(Math.floor(x - half[0]), 0); h < Math.min(x + half[0], side); h++) {
          found[v * side + h] += high * (Math.min(h + 1, x + half[0]) - Math.max(h, x - half[0]));
        }
      }
    });
    return found;
  }
}
