// Ask a model something, and see its answer and what spoke for it.

import { call, refusal } from "./api.js";
import { DIGITS } from "./digits.js";
import { h } from "./dom.js";
import { Field, attributions, drawHeatMap, weightedWords } from "./draw.js";
import { bytes, durationText } from "./format.js";
import { emptyState } from "./parts.js";
import { timeBar, timeList } from "./requests.js";
import { changed, keyOf, state } from "./store.js";

const MOST_SHOWN = 100_000; // characters of an answer
const INPUTS = { draw: "Draw", file: "File", text: "Text or JSON" };

const chosen = { model: null, input: null, file: null, text: "", busy: null, answer: null, explanation: null };
let field = null;

export function tryView(name, version) {
  const models = (state.models ?? []).filter((model) => model.version);
  if (!models.length) return emptyState("No model to try", "Register one first.", h("a", { href: "#/" }, "To the overview"));
  const model = models.find((one) => one.name === name && (!version || one.version === version)) ?? models.find((one) => looksAtDigits(one)) ?? models[0];
  if (chosen.model !== keyOf(model)) Object.assign(chosen, { model: keyOf(model), input: null, answer: null, explanation: null, busy: null });
  const input = chosen.input ?? (looksAtDigits(model) ? "draw" : "text");
  return [
    h("div", { class: "title-row" }, h("div", null, h("h1", null, "Try it"), h("p", { class: "quiet" }, "Ask a model as a client would. The request takes the same way as all others."))),
    h("div", { class: "try" }, question(models, model, input), h("section", { class: "answer-side", "aria-live": "polite", "aria-label": "Answer" }, answerSide(input))),
  ];
}

function looksAtDigits(model) {
  return /mnist|digit/i.test(model.name) || model.inputs.some(({ shape }) => shape.at(-1) === 28 && shape.at(-2) === 28);
}

function question(models, model, input) {
  const ready = input === "draw" ? field && !field.empty : input === "file" ? chosen.file : chosen.text !== "";
  return h(
    "section",
    { class: "card question", "aria-label": "Request" },
    h("label", { for: "try-model" }, "Model"),
    h(
      "select",
      { id: "try-model", class: "input", onchange: (event) => (location.hash = event.target.value), value: hrefOf(model) },
      models.map((one) => h("option", { key: keyOf(one), value: hrefOf(one), selected: one === model }, `${one.name} ${one.version}`)),
    ),
    h("div", { class: "segments", role: "group", "aria-label": "What to send" }, Object.entries(INPUTS).map(([kind, title]) => h("button", { key: kind, "aria-pressed": String(kind === input), onclick: () => choose({ input: kind, answer: null, explanation: null }) }, title))),
    { draw: drawing, file: filePicker, text: textField }[input](),
    h(
      "div",
      { class: "actions" },
      h("button", { class: "button primary", id: "predict", disabled: !ready || Boolean(chosen.busy), onclick: () => send(model, input, false) }, chosen.busy === "predict" ? "Asking…" : "Predict"),
      h("button", { class: "button", id: "explain", disabled: !ready || Boolean(chosen.busy), onclick: () => send(model, input, true) }, chosen.busy === "explain" ? "Explaining…" : "Explain"),
    ),
  );
}

function hrefOf(model) {
  return `#/try/${encodeURIComponent(model.name)}/${encodeURIComponent(model.version)}`;
}

function drawing() {
  return h(
    "div",
    { key: "draw", class: "drawing" },
    h("canvas", { class: "field-canvas", id: "field", own: true, role: "img", "aria-label": "Field to draw a digit in with a pointer; the buttons below draw one for you", created: (node) => (field = new Field(node, changed)) }),
    h(
      "div",
      { class: "digits" },
      h("span", { class: "field-about", id: "digits-about" }, "Draw a digit, or take one:"),
      h("div", { class: "digit-row", role: "group", "aria-labelledby": "digits-about" }, DIGITS.map((strokes, digit) => h("button", { key: digit, class: "digit", "aria-label": `Draw a ${digit}`, onclick: () => field.show(strokes) }, digit))),
      h("button", { class: "button small", onclick: () => clear() }, "Clear"),
    ),
  );
}

function clear() {
  field.clear();
  choose({ answer: null, explanation: null });
}

function filePicker() {
  return h(
    "div",
    { key: "file", class: "drop", ondragover: (event) => event.preventDefault(), ondrop: (event) => (event.preventDefault(), pick(event.dataTransfer.files[0])) },
    h("label", { for: "try-file" }, "File"),
    h("input", { id: "try-file", type: "file", class: "file", onchange: (event) => pick(event.target.files[0]) }),
    h("p", { class: "field-about" }, chosen.file ? `${chosen.file.name}, ${bytes(chosen.file.size)}, ${chosen.file.type || "application/octet-stream"}` : "Any file, or drop one here. It is sent as it is."),
  );
}

function pick(file) {
  choose({ file: file ?? null, answer: null, explanation: null });
}

function textField() {
  return h(
    "div",
    { key: "text", class: "field" },
    h("label", { for: "try-text" }, "Text or JSON"),
    h("textarea", { id: "try-text", class: "input code-input", rows: 9, spellcheck: "false", placeholder: '{"instances": [...]}', created: (node) => (node.value = chosen.text), oninput: (event) => choose({ text: event.target.value }) }),
    h("p", { class: "field-about" }, 'JSON with "instances" or "inputs" is sent as KServe V1 or V2, anything else as it is.'),
  );
}

function choose(what) {
  Object.assign(chosen, what);
  changed();
}

// An image is explained for the class that was answered, so it is asked for first.
async function send(model, input, explain) {
  const asked = chosen.model;
  if (!explain) choose({ busy: "predict", answer: null, explanation: null });
  else choose({ busy: "explain", explanation: null });
  try {
    if (!explain || (input === "draw" && chosen.answer?.strokes !== field.strokes)) {
      await exchange(model, input, false, (answer) => chosen.model === asked && choose({ answer }));
    }
    if (explain) await exchange(model, input, true, (explanation) => chosen.model === asked && choose({ explanation }));
  } finally {
    if (chosen.model === asked) choose({ busy: null });
  }
}

async function exchange(model, input, explain, show) {
  try {
    const request = await requestOf(model, input, explain);
    const begun = performance.now();
    const response = await call("POST", request.path, { body: request.body, headers: request.type ? { "Content-Type": request.type } : {} });
    const answer = { status: response.status, headers: [...response.headers], seconds: (performance.now() - begun) / 1000, ...request.facts };
    if (!response.ok) {
      const refused = await refusal(response);
      show({ ...answer, problem: refused.message, type: refused.type });
    } else {
      await take(response, answer, begun, show);
    }
  } catch (error) {
    show({ status: 0, headers: [], problem: error.message });
  }
}

async function requestOf(model, input, explain) {
  const target = [model.name, model.version].map(encodeURIComponent);
  const plain = `console/${explain ? "explanations" : "predictions"}/${target.join("/")}`;
  if (input === "draw") {
    const strokes = field.strokes;
    const body = await field.image();
    return imageRequest(plain, body, explain, { image: await createImageBitmap(body), strokes });
  }
  if (input === "file") {
    const type = chosen.file.type || "application/octet-stream";
    const image = type.startsWith("image/") ? await createImageBitmap(chosen.file).catch(() => null) : null;
    if (image) return imageRequest(plain, chosen.file, explain, { image });
    const text = /json$/.test(type) ? await chosen.file.text() : null;
    return { ...wayOf(text, target, plain, explain, model), body: chosen.file, type };
  }
  const way = wayOf(chosen.text, target, plain, explain, model);
  return { ...way, body: chosen.text, type: way.json ? "application/json" : "text/plain" };
}

// The class goes with the image as a part of a form, where handlers of images look for it.
function imageRequest(path, image, explain, facts) {
  const answered = chosen.answer?.json;
  if (!explain || !Number.isInteger(answered)) return { path, body: image, type: image.type, facts };
  const body = new FormData();
  body.append("body", image, "image");
  body.append("target", String(answered));
  return { path, body, facts: { ...facts, target: answered } };
}

function wayOf(text, [name, version], plain, explain, model) {
  let document;
  try {
    document = JSON.parse(text);
  } catch {
    return { path: plain, json: false };
  }
  if (document && Array.isArray(document.inputs)) return { path: `console/v2/models/${name}/versions/${version}/${explain ? "explain" : "infer"}`, json: true };
  if (document && Array.isArray(document.instances) && model.default) return { path: `console/v1/models/${name}:${explain ? "explain" : "predict"}`, json: true }; // V1 knows no versions
  return { path: plain, json: text !== null };
}

// Shown as it comes, where the handler streams.
async function take(response, answer, begun, show) {
  const type = response.headers.get("content-type") ?? "";
  if (type.startsWith("image/") && !type.includes("svg")) {
    const blob = await response.blob();
    return show({ ...answer, seconds: (performance.now() - begun) / 1000, picture: await createImageBitmap(blob), size: blob.size });
  }
  const pieces = [];
  const decoder = new TextDecoder();
  let text = "";
  for (const reader = response.body.getReader(); ; ) {
    const { value, done } = await reader.read();
    if (done) break;
    pieces.push(value);
    text += decoder.decode(value, { stream: true });
    show({ ...answer, text, coming: true });
  }
  answer.seconds = (performance.now() - begun) / 1000;
  answer.size = pieces.reduce((sum, piece) => sum + piece.length, 0);
  if (text.includes("\u0000")) return show({ ...answer, blob: new Blob(pieces, { type }) });
  try {
    answer.json = JSON.parse(text);
  } catch {
    // it is text
  }
  show({ ...answer, text });
}

function answerSide(input) {
  const { answer, explanation, busy } = chosen;
  if (!answer && !explanation) {
    return busy
      ? h("div", { class: "empty" }, h("p", { class: "empty-title" }, busy === "explain" ? "Explaining…" : "Asking…"))
      : emptyState("No answer yet", input === "draw" ? "Draw a digit and have it recognised." : "What the model answers is shown here, with its status, headers and time.");
  }
  return [answer && answerCard("Answer", "answer", answer), explanation && explanationCard(explanation)];
}

function answerCard(title, id, answer) {
  return h(
    "article",
    { class: "card answer", key: id, id },
    h("header", { class: "answer-head" }, h("h2", null, title), statusOf(answer)),
    answer.problem ? h("p", { class: "problem" }, answer.type && h("strong", null, `${answer.type}: `), answer.problem) : content(answer),
    timesOf(answer),
    headersOf(answer),
  );
}

// Where its time went comes with the events of the next second.
function timesOf(answer) {
  const id = answer.headers.find(([name]) => name === "x-request-id")?.[1];
  const request = id && state.requests.find((one) => one.id === id);
  return request && h("div", { class: "answer-times" }, timeBar(request), timeList(request));
}

function statusOf(answer) {
  const ok = answer.status >= 200 && answer.status < 300;
  return h("p", { class: "answer-facts" }, answer.status ? h("span", { class: `pill ${ok ? "good" : "bad"}` }, answer.status) : h("span", { class: "pill bad" }, "no answer"), answer.seconds !== undefined && h("span", null, answer.coming ? "coming…" : durationText(answer.seconds)), answer.size !== undefined && h("span", null, bytes(answer.size)));
}

function content(answer) {
  if (answer.picture) return picture(answer.picture);
  if (answer.blob) return h("p", null, `${bytes(answer.size)} that are no text. `, h("button", { class: "button small", onclick: () => save(answer.blob) }, "Save them"));
  if (typeof answer.json === "number" || typeof answer.json === "string") return h("p", { class: String(answer.json).length < 12 ? "verdict" : "verdict long" }, String(answer.json));
  const text = answer.json === undefined ? answer.text : JSON.stringify(answer.json, null, 2);
  return h("pre", { class: "code", tabindex: 0 }, text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}\n… ${text.length - MOST_SHOWN} characters more` : text || "(empty)");
}

function picture(bitmap) {
  return h("canvas", { class: "picture", own: true, role: "img", "aria-label": "The image that the model answered", created: (node) => show(node, bitmap) });
}

function show(canvas, bitmap) {
  Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function save(blob) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: "answer.bin" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function explanationCard(explanation) {
  const rows = explanation.problem ? null : attributions(explanation.json);
  const words = rows || explanation.problem ? null : weightedWords(explanation.json);
  if (!rows && !words) return answerCard("Explanation", "explanation", explanation);
  return h(
    "article",
    { class: "card answer", key: "explanation", id: "explanation" },
    h("header", { class: "answer-head" }, h("h2", null, explanation.target === undefined ? "Explanation" : `What spoke for ${explanation.target}`), statusOf(explanation)),
    rows
      ? h("canvas", { key: explanation.seconds, class: "heat-map", id: "heat-map", own: true, role: "img", "aria-label": `Heat map of ${rows.length} by ${rows[0].length} points: warm ones spoke for the answer, blue ones against it`, created: (node) => drawHeatMap(node, rows, explanation.image) })
      : h("p", { class: "words" }, words.map(({ word, strength }) => h("mark", { class: strength > 0 ? "for" : "against", title: strength.toFixed(2), css: { "--strength": Math.abs(strength).toFixed(2) } }, word))),
    h("p", { class: "scale" }, h("span", null, "against"), h("i", { "aria-hidden": "true" }), h("span", null, "for")),
    timesOf(explanation),
    headersOf(explanation),
  );
}

function headersOf(answer) {
  if (!answer.headers.length) return null;
  return h("details", null, h("summary", null, "Headers"), h("dl", { class: "headers" }, answer.headers.map(([name, value]) => h("div", { key: name }, h("dt", null, name), h("dd", null, value)))));
}
