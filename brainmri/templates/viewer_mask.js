// The mask of a viewer: probabilities above a threshold, without small islands, with the user's corrections on top.
class ViewerMask {
  // data: see `brainmri/report/viewer.py`; levels: Uint8Array (S * H * W), for each voxel the number of edges below its probability
  constructor(data, levels) {
    [this.slices, this.height, this.width] = data.shape;
    this.plane = this.height * this.width;
    this.edges = data.edges;
    this.minAreas = data.min_areas;
    this.minShare = data.min_island_share;
    this.offsets = data.thresholds.map((own) => own - data.threshold); // each picture of several has the threshold of its own sequence
    this.levels = levels;
    const lowest = this.levelOf(0);
    let count = 0;
    for (let voxel = 0; voxel < levels.length; voxel++) if (levels[voxel] > lowest) count++;
    this.candidates = new Uint32Array(count); // voxels that some threshold outlines
    for (let voxel = 0, n = 0; n < count; voxel++) if (levels[voxel] > lowest) this.candidates[n++] = voxel;
    const numbers = () => new Uint32Array(count);
    this.runs = { row: numbers(), start: numbers(), end: numbers(), parent: numbers(), first: new Uint32Array(this.slices * this.height + 1) };
    this.voxels = new Uint8Array(levels.length);
    this.areas = new Uint32Array(this.slices); // voxels in each slice
    this.edits = new Map(); // voxel: 0 or 1
    this.strokes = []; // for undo, of each stroke the edits before it
    this.version = 0; // counts changes
    this.cut(data.threshold);
  }

  // index of the largest edge that is no larger than the threshold
  levelOf(threshold) {
    let level = 0;
    while (level + 1 < this.edges.length && this.edges[level + 1] <= threshold + 1e-9) level++;
    return level;
  }

  // Threshold anew; corrections are kept.
  cut(threshold) {
    const { voxels, levels, areas, plane } = this, cuts = this.offsets.map((offset) => this.levelOf(threshold + offset));
    this.threshold = threshold;
    this.version++;
    for (const voxel of this.edits.keys()) voxels[voxel] = 0; // those that are no candidates
    for (const voxel of this.candidates) voxels[voxel] = levels[voxel] > cuts[Math.floor(voxel / plane)] ? 1 : 0;
    if (this.minShare) this.removeIslands();
    areas.fill(0);
    for (const voxel of this.candidates) if (voxels[voxel]) areas[Math.floor(voxel / plane)]++;
    const small = areas.map((area, slice) => Number(area > 0 && area < this.minAreas[slice]));
    if (small.some(Boolean)) {
      for (const voxel of this.candidates) if (small[Math.floor(voxel / plane)]) voxels[voxel] = 0;
      small.forEach((isSmall, slice) => { if (isSmall) areas[slice] = 0; });
    }
    this.edits.forEach((value, voxel) => this.set(voxel, value));
  }

  // Remove components (26-connectivity) that are small compared with the largest. Runs of voxels along rows are joined where they
  // touch a run of the row before or of the slice before.
  removeIslands() {
    const { runs, voxels, width, height } = this, count = this.findRuns();
    const root = (run) => {
      while (runs.parent[run] !== run) run = runs.parent[run] = runs.parent[runs.parent[run]];
      return run;
    };
    const join = (run, row) => {
      for (let other = runs.first[row]; other < runs.first[row + 1] && runs.start[other] <= runs.end[run]; other++) {
        if (runs.end[other] >= runs.start[run]) runs.parent[root(other)] = root(run); // columns [start, end) touch, also diagonally
      }
    };
    for (let run = 0; run < count; run++) {
      const row = runs.row[run], inSlice = row % height;
      if (inSlice > 0) join(run, row - 1);
      for (const before of [row - height - 1, row - height, row - height + 1]) {
        if (before >= 0 && Math.abs((before % height) - inSlice) <= 1) join(run, before);
      }
    }
    const sizes = new Uint32Array(count);
    for (let run = 0; run < count; run++) sizes[root(run)] += runs.end[run] - runs.start[run];
    const smallest = Math.max(1, this.minShare * sizes.reduce((a, b) => Math.max(a, b), 0));
    for (let run = 0; run < count; run++) {
      const start = runs.row[run] * width;
      if (sizes[root(run)] < smallest) voxels.fill(0, start + runs.start[run], start + runs.end[run]);
    }
  }

  // Fill `runs` with the runs of outlined voxels: row, columns from `start` to before `end`, and the first run of each row.
  findRuns() {
    const { runs, voxels, width } = this;
    let count = 0, last = -2, filled = 0;
    for (const voxel of this.candidates) {
      if (!voxels[voxel]) continue;
      if (voxel !== last + 1 || voxel % width === 0) {
        const row = Math.floor(voxel / width);
        while (filled <= row) runs.first[filled++] = count;
        runs.row[count] = row;
        runs.parent[count] = count;
        runs.start[count++] = voxel % width;
      }
      runs.end[count - 1] = (voxel % width) + 1;
      last = voxel;
    }
    runs.first.fill(count, filled);
    return count;
  }

  set(voxel, value) {
    if (this.voxels[voxel] === value) return;
    this.version++;
    this.voxels[voxel] = value;
    this.areas[Math.floor(voxel / this.plane)] += value ? 1 : -1;
  }

  get total() {
    return this.areas.reduce((sum, area) => sum + area, 0);
  }

  // Call `visit` with slice, row and column of each outlined voxel.
  visit(visit) {
    for (let slice = 0; slice < this.slices; slice++) this.visitSlice(slice, visit);
  }

  visitSlice(slice, visit) {
    if (!this.areas[slice]) return;
    for (let row = 0, voxel = slice * this.plane; row < this.height; row++) {
      for (let column = 0; column < this.width; column++, voxel++) if (this.voxels[voxel]) visit(slice, row, column);
    }
  }

  // Voxel indices of the middle of a slice's mask; null if it has none.
  centreOf(slice) {
    let [rows, columns] = [0, 0];
    this.visitSlice(slice, (_, row, column) => {
      rows += row;
      columns += column;
    });
    const area = this.areas[slice];
    return area ? [slice, Math.round(rows / area), Math.round(columns / area)] : null;
  }

  get edited() {
    return this.edits.size > 0;
  }

  beginStroke() {
    this.strokes.push(new Map());
  }

  // Set a voxel as part of the current stroke.
  paint(voxel, value) {
    const stroke = this.strokes.at(-1);
    if (this.voxels[voxel] === value) return;
    if (!stroke.has(voxel)) stroke.set(voxel, this.edits.get(voxel));
    this.edits.set(voxel, value);
    this.set(voxel, value);
  }

  endStroke() {
    if (this.strokes.at(-1)?.size === 0) this.strokes.pop();
  }

  undo() {
    const touched = this.strokes.pop() ?? new Map();
    for (const voxel of touched.keys()) this.set(voxel, 0);
    touched.forEach((before, voxel) => (before === undefined ? this.edits.delete(voxel) : this.edits.set(voxel, before)));
    this.cut(this.threshold);
  }

  // Take over the threshold and the corrections of another viewer's mask.
  restore(threshold, edits) {
    edits.forEach(([voxel, value]) => this.edits.set(voxel, value));
    this.cut(threshold);
  }

  // Undo every correction and every change of the threshold.
  reset(threshold) {
    while (this.strokes.length) this.undo();
    this.cut(threshold);
  }
}
