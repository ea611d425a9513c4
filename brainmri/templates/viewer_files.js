// Reading the viewer's data, and writing its downloads.
function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function passThrough(bytes, transform) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(transform)).arrayBuffer());
}

const gunzip = (bytes) => passThrough(bytes, new DecompressionStream("gzip"));
const gzip = (bytes) => passThrough(bytes, new CompressionStream("gzip"));
const deflate = (bytes) => passThrough(bytes, new CompressionStream("deflate"));

function saveFile(name, parts, type) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob(parts, { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// The grey volumes of a viewer's sequences, decoded when they are first shown.
class ViewerImages {
  // shown: called with a slice's index when its image is decoded
  constructor({ shape, frames }, shown) {
    Object.assign(this, { shape, frames, shown, decoded: frames.map(() => null), pending: [], loaded: 0 });
  }

  // One volume for a sequence, three (red, green and blue) for the colours as read, whose index is -1.
  volumes(sequence) {
    return sequence < 0 ? this.frames.map((_, n) => this.volume(n)) : [this.volume(sequence)];
  }

  volume(sequence) {
    if (!this.decoded[sequence]) {
      const [slices, height, width] = this.shape;
      this.decoded[sequence] = new Uint8Array(slices * height * width);
      this.pending.push(...this.frames[sequence].map((source, slice) => this.decode(source, slice, this.decoded[sequence])));
    }
    return this.decoded[sequence];
  }

  // Resolves when all pictures of the volumes asked for are decoded.
  decoding() {
    return Promise.all(this.pending);
  }

  async decode(source, slice, volume) {
    const [, height, width] = this.shape, image = new Image();
    image.src = source;
    await image.decode();
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, width, height), start = slice * height * width;
    for (let n = 0; n < height * width; n++) volume[start + n] = data[4 * n];
    this.loaded++;
    this.shown(slice);
  }
}

// Call `visit` with the place of each of a mask's voxels in the array that was read, whose axes have the given steps.
function visitStored(mask, { shape, axes, directions, missing }, steps, visit) {
  const size = [mask.slices, mask.height, mask.width];
  const present = Array.from({ length: shape[0] }, (_, n) => n).filter((n) => !missing.includes(n));
  const places = axes.map((axis, n) => Array.from({ length: size[n] }, (_, index) => {
    let stored = directions[n] === 1 ? index : size[n] - 1 - index;
    if (axis === 0 && n === 0) stored = present[stored];
    return axis === 0 && missing.includes(stored) ? NaN : steps[axis](stored);
  }));
  mask.voxels.forEach((value, voxel) => {
    if (!value) return;
    const place = places[0][Math.floor(voxel / mask.plane)] + places[1][Math.floor(voxel / mask.width) % mask.height] + places[2][voxel % mask.width];
    if (!Number.isNaN(place)) visit(place);
  });
}

// A mask as NIfTI: the header comes with the data.
function niftiFile(mask, nifti, description) {
  const { header, shape } = nifti, head = bytesOf(header), file = new Uint8Array(head.length + shape[0] * shape[1] * shape[2]);
  head.set(new TextEncoder().encode(description).slice(0, 79), 148); // the field "descrip"
  file.set(head);
  const steps = [1, shape[0], shape[0] * shape[1]].map((step) => (index) => index * step);
  visitStored(mask, nifti, steps, (place) => { file[head.length + place] = 1; });
  return gzip(file);
}

// A mask as a DICOM segmentation: the header comes with the data; instance and series get new UIDs.
async function segmentationFile(mask, nifti, { header, uids, frames }) {
  const head = await gunzip(bytesOf(header)), { shape } = nifti, frame = shape[1] * shape[2], bytes = Math.ceil((frames.length * frame) / 8);
  let text = Array.from(head, (byte) => String.fromCharCode(byte)).join("");
  for (const uid of uids) {
    const start = uid.lastIndexOf(".") + 1, digits = crypto.getRandomValues(new Uint8Array(uid.length - start));
    text = text.replaceAll(uid, uid.slice(0, start) + [...digits].map((byte, n) => (n ? byte % 10 : 1 + (byte % 9))).join(""));
  }
  const pixels = new Uint8Array(bytes + (bytes % 2)), places = new Map(frames.map((slice, n) => [slice, n * frame]));
  const steps = [(slice) => places.get(slice), (row) => row * shape[2], (column) => column];
  visitStored(mask, nifti, steps, (place) => { pixels[place >> 3] |= 1 << (place & 7); });
  return [Uint8Array.from(text, (character) => character.charCodeAt(0)), pixels];
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let n = 0; n < 8; n++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function pngChunk(type, data) {
  const chunk = new Uint8Array(12 + data.length), view = new DataView(chunk.buffer);
  view.setUint32(0, data.length);
  chunk.set(new TextEncoder().encode(type), 4);
  chunk.set(data, 8);
  let crc = ~0;
  for (const byte of chunk.subarray(4, 8 + data.length)) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  view.setUint32(8 + data.length, ~crc >>> 0);
  return chunk;
}

// A slice's mask as a grey PNG of 0 and 255 (a canvas writes RGBA only), in the order of the input's pixels.
// orientation: the EXIF tag of the input and its bytes, as `brainmri/io/orientation.py` applies it
async function maskPng(mask, { tag, exif }, description) {
  const turned = tag > 4, [height, width] = turned ? [mask.width, mask.height] : [mask.height, mask.width];
  const rows = new Uint8Array(height * (width + 1)); // a filter byte of 0 before each row
  const mirrored = { rows: [3, 4, 7, 8], columns: [2, 3, 6, 7] };
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      let [y, x] = turned ? [column, row] : [row, column];
      if (mirrored.rows.includes(tag)) y = mask.height - 1 - y;
      if (mirrored.columns.includes(tag)) x = mask.width - 1 - x;
      rows[row * (width + 1) + column + 1] = 255 * mask.voxels[y * mask.width + x];
    }
  }
  const header = new Uint8Array(13), view = new DataView(header.buffer), text = new TextEncoder();
  view.setUint32(0, width);
  view.setUint32(4, height);
  header.set([8, 0, 0, 0, 0], 8); // 8 bits, grey
  return [
    Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), pngChunk("IHDR", header), ...(exif ? [pngChunk("eXIf", bytesOf(exif))] : []),
    ...(description ? [pngChunk("tEXt", text.encode(`Comment\0${description}`))] : []),
    pngChunk("IDAT", await deflate(rows)), pngChunk("IEND", new Uint8Array()),
  ];
}
