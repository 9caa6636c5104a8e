// The field in which digits are drawn, and maps of what in an image spoke for the answer.

const SIDE = 280; // of the field, in its own pixels
const PEN = 22;
const IMAGE = 28; // MNIST's size,
const DIGIT = 20; // in which the digit itself has so much, around its centre of mass

export class Field {
  constructor(canvas, onInk) {
    this.canvas = canvas;
    this.onInk = onInk;
    canvas.width = canvas.height = SIDE;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
    Object.assign(this.pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#fff", fillStyle: "#fff" });
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.draw(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.last = null));
    this.strokes = 0; // so far: tells whether two images are of the same drawing
    this.clear();
  }

  clear() {
    this.last = null;
    this.strokes += 1;
    this.pen.clearRect(0, 0, SIDE, SIDE);
    this.empty = true;
    this.onInk?.();
  }

  begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.last = this.place(event);
    this.stroke([this.last, this.last]);
  }

  draw(event) {
    if (!this.last) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      const place = this.place(one);
      this.stroke([this.last, place]);
      this.last = place;
    }
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  }

  // `strokes`: lists of points in a square of 1 by 1.
  show(strokes) {
    this.clear();
    for (const points of strokes) this.stroke(points.map(([x, y]) => [x * SIDE, y * SIDE]));
  }

  stroke(points) {
    this.pen.beginPath();
    this.pen.moveTo(...points[0]);
    for (const point of points.slice(1)) this.pen.lineTo(...point);
    this.pen.stroke();
    this.strokes += 1;
    const was = this.empty;
    this.empty = false;
    if (was) this.onInk?.();
  }

  // White on black, scaled and centred as the pictures are on which such models were trained. A PNG.
  async image() {
    const { left, top, right, bottom, x, y } = this.extent();
    const scale = DIGIT / Math.max(right - left, bottom - top);
    const image = new OffscreenCanvas(IMAGE, IMAGE);
    const pen = image.getContext("2d");
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, IMAGE, IMAGE);
    pen.imageSmoothingQuality = "high";
    const place = [IMAGE / 2 - (x - left) * scale, IMAGE / 2 - (y - top) * scale];
    pen.drawImage(this.canvas, left, top, right - left, bottom - top, ...place, (right - left) * scale, (bottom - top) * scale);
    return await image.convertToBlob({ type: "image/png" });
  }

  extent() {
    const { data } = this.pen.getImageData(0, 0, SIDE, SIDE);
    let [left, top, right, bottom, mass, sumX, sumY] = [SIDE, SIDE, 0, 0, 0, 0, 0];
    for (let y = 0; y < SIDE; y++) {
      for (let x = 0; x < SIDE; x++) {
        const ink = data[(y * SIDE + x) * 4 + 3];
        if (!ink) continue;
        [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x + 1), Math.min(top, y), Math.max(bottom, y + 1)];
        mass += ink;
        sumX += ink * x;
        sumY += ink * y;
      }
    }
    return { left, top, right, bottom, x: sumX / mass, y: sumY / mass };
  }
}

// The rows of numbers in an explanation of an image: of `[[...], ...]`, `[1, h, w]`, `[3, h, w]` (added up), KServe's
// `{"explanations": [...]}` and `{"outputs": [{"shape", "data"}]}`. Null for anything else.
export function attributions(answer) {
  let values = answer?.explanations ?? answer;
  if (answer?.outputs?.[0]?.data) values = shaped(answer.outputs[0].data.flat(Infinity), answer.outputs[0].shape);
  while (Array.isArray(values) && values.length === 1 && depth(values) > 2) values = values[0];
  if (depth(values) === 3 && values.length <= 4) {
    values = values[0].map((row, y) => row.map((_, x) => values.reduce((sum, channel) => sum + channel[y][x], 0)));
  }
  if (depth(values) !== 2 || values.length < 2) return null;
  const width = values[0].length;
  const fitting = values.every((row) => row.length === width && row.every(Number.isFinite));
  return fitting && width > 1 ? values : null;
}

function depth(values) {
  return Array.isArray(values) ? 1 + depth(values[0]) : 0;
}

function shaped(data, shape) {
  if (shape.length < 2) return data;
  const size = data.length / shape[0];
  return Array.from({ length: shape[0] }, (_, index) => shaped(data.slice(index * size, (index + 1) * size), shape.slice(1)));
}

// Warm where it speaks for the answer, blue where it speaks against it, over the pale image.
export function drawHeatMap(canvas, rows, image) {
  const [height, width] = [rows.length, rows[0].length];
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#14110f";
  pen.fillRect(0, 0, width, height);
  if (image) {
    pen.globalAlpha = 0.38;
    pen.drawImage(image, 0, 0, width, height);
    pen.globalAlpha = 1;
  }
  const strongest = Math.max(...rows.flat().map(Math.abs)) || 1;
  rows.forEach((row, y) =>
    row.forEach((value, x) => {
      const strength = Math.abs(value) / strongest;
      if (strength < 0.02) return;
      pen.fillStyle = value > 0 ? `rgb(255 122 47 / ${Math.sqrt(strength)})` : `rgb(84 160 255 / ${Math.sqrt(strength)})`;
      pen.fillRect(x, y, 1, 1);
    }),
  );
}

// The words of an explanation of a text with their weights; null for anything else.
export function weightedWords(answer) {
  const one = answer?.explanations?.[0] ?? (Array.isArray(answer) ? answer[0] : answer);
  const [words, weights] = [one?.words ?? one?.text, one?.word_importances ?? one?.importances ?? one?.importances_answer];
  const list = typeof words === "string" ? words.split(/\s+/) : words;
  if (!Array.isArray(list) || !Array.isArray(weights) || list.length !== weights.length || !weights.every(Number.isFinite)) return null;
  const strongest = Math.max(...weights.map(Math.abs)) || 1;
  return list.map((word, index) => ({ word: String(word), strength: weights[index] / strongest }));
}
