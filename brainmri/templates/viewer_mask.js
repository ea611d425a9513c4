// The mask of a viewer: probabilities above a threshold, without small islands, with the user's corrections on top.
class ViewerMask {
  // data: see `brainmri/report/viewer.py`; levels: Uint8Array (S * H * W), for each voxel the number of edges below its probability
  constructor(data, levels) {
    [this.slices, this.height, this.width] = data.shape;
    this.plane = this.height * this.width;
    this.edges = data.edges;
    this.minAreas = data.min_areas;
    this.minShare = data.min_island_share;
    this.levels = levels;
    const lowest = this.levelOf(0);
    let count = 0;
    for (let voxel = 0; voxel < levels.length; voxel++) if (levels[voxel] > lowest) count++;
    this.candidates = new Uint32Array(count); // voxels that some threshold outlines
    this.queue = new Uint32Array(count);
    for (let voxel = 0, n = 0; n < count; voxel++) if (levels[voxel] > lowest) this.candidates[n++] = voxel;
    this.voxels = new Uint8Array(levels.length);
    this.areas = new Uint32Array(this.slices); // voxels in each slice
    this.edits = new Map(); // voxel: 0 or 1
    this.strokes = []; // for undo, of each stroke the edits before it
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
    const { voxels, levels, areas, plane } = this, level = this.levelOf(threshold);
    this.threshold = threshold;
    for (const voxel of this.edits.keys()) voxels[voxel] = 0; // those that are no candidates
    for (const voxel of this.candidates) voxels[voxel] = levels[voxel] > level ? 1 : 0;
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

  // Remove components (26-connectivity) that are small compared with the largest.
  removeIslands() {
    const { voxels, queue, slices, height, width, plane } = this, starts = [];
    let end = 0;
    for (const seed of this.candidates) {
      if (voxels[seed] !== 1) continue;
      starts.push(end);
      voxels[seed] = 2; // visited
      queue[end++] = seed;
      for (let next = end - 1; next < end; next++) {
        const voxel = queue[next], column = voxel % width, row = Math.floor(voxel / width) % height, slice = Math.floor(voxel / plane);
        for (let z = Math.max(slice - 1, 0); z <= Math.min(slice + 1, slices - 1); z++) {
          for (let y = Math.max(row - 1, 0); y <= Math.min(row + 1, height - 1); y++) {
            for (let x = Math.max(column - 1, 0); x <= Math.min(column + 1, width - 1); x++) {
              const neighbour = (z * height + y) * width + x;
              if (voxels[neighbour] === 1) {
                voxels[neighbour] = 2;
                queue[end++] = neighbour;
              }
            }
          }
        }
      }
    }
    const sizes = starts.map((start, n) => (n + 1 < starts.length ? starts[n + 1] : end) - start);
    const smallest = Math.max(1, this.minShare * sizes.reduce((a, b) => Math.max(a, b), 0));
    starts.forEach((start, n) => {
      for (let k = start; k < start + sizes[n]; k++) voxels[queue[k]] = sizes[n] >= smallest ? 1 : 0;
    });
  }

  set(voxel, value) {
    if (this.voxels[voxel] === value) return;
    this.voxels[voxel] = value;
    this.areas[Math.floor(voxel / this.plane)] += value ? 1 : -1;
  }

  get total() {
    return this.areas.reduce((sum, area) => sum + area, 0);
  }

  // Voxel indices of the middle of a slice's mask; null if it has none.
  centreOf(slice) {
    let [rows, columns] = [0, 0];
    for (let voxel = slice * this.plane; voxel < (slice + 1) * this.plane; voxel++) {
      if (!this.voxels[voxel]) continue;
      rows += Math.floor(voxel / this.width) % this.height;
      columns += voxel % this.width;
    }
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

  // Undo every correction and every change of the threshold.
  reset(threshold) {
    while (this.strokes.length) this.undo();
    this.cut(threshold);
  }
}
