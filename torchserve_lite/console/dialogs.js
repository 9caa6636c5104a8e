// What is asked before something is done to a model, and what is said when it has been.

import { manage, modelPath } from "./api.js";
import { h, render } from "./dom.js";
import { changed, versionsOf } from "./store.js";

let open = null; // {title, about, fields, action, danger, run}, with `busy` and `error` while it is carried out
let opener = null;

export function ask(dialog) {
  opener = document.activeElement;
  open = { busy: false, error: "", ...dialog };
  changed();
}

function close() {
  open = null;
  changed();
  opener?.focus();
}

// Somebody goes to another view: what was asked here is not asked there.
export function leaveDialog() {
  open = null;
  changed();
}

export function drawDialogs() {
  render(document.getElementById("dialogs"), open && dialogOf(open));
}

function dialogOf(asked) {
  return h(
    "dialog",
    {
      key: asked.title,
      class: "dialog",
      "aria-labelledby": "dialog-title",
      created: (node) => queueMicrotask(() => node.showModal()),
      oncancel: (event) => {
        event.preventDefault();
        if (!asked.busy) close();
      },
    },
    h(
      "form",
      { method: "dialog", onsubmit: (event) => submit(event, asked) },
      h("h2", { id: "dialog-title" }, asked.title),
      asked.about && h("p", { class: "quiet" }, asked.about),
      asked.fields?.map(field),
      asked.error && h("p", { class: "problem", role: "alert" }, asked.error),
      h(
        "footer",
        { class: "dialog-foot" },
        h("button", { type: "button", class: "button", onclick: close }, asked.busy ? "Close, it goes on" : "Cancel"),
        h("button", { type: "submit", class: `button ${asked.danger ? "danger" : "primary"}`, disabled: asked.busy }, asked.busy ? "Working…" : asked.action),
      ),
    ),
  );
}

function field({ name, label, about, type = "text", ...rest }) {
  const id = `field-${name}`;
  const { value, ...attributes } = rest;
  return h(
    "div",
    { class: "field", key: name },
    h("label", { for: id }, label),
    h("input", { id, name, type, class: "input", autocomplete: "off", "aria-describedby": about ? `${id}-about` : undefined, created: (node) => (node.value = value ?? ""), ...attributes }),
    about && h("p", { id: `${id}-about`, class: "field-about" }, about),
  );
}

async function submit(event, asked) {
  event.preventDefault();
  const values = Object.fromEntries(new FormData(event.target));
  Object.assign(asked, { busy: true, error: "" });
  changed();
  try {
    toast(await asked.run(values), "good");
    if (open === asked) close();
    asked.done?.();
  } catch (error) {
    asked.busy = false;
    asked.error = error.message;
    if (open !== asked) toast(error.message, "bad");
    changed();
  }
}

let toasts = [];

export function toast(text, tone = "good") {
  const one = { text, tone, id: `${Date.now()}${Math.random()}` };
  toasts = [...toasts.slice(-2), one];
  drawToasts();
  setTimeout(() => dismiss(one), tone === "bad" ? 12000 : 5000);
}

function dismiss(one) {
  toasts = toasts.filter((other) => other !== one);
  drawToasts();
}

function drawToasts() {
  render(
    document.getElementById("toasts"),
    toasts.map((one) => h("div", { key: one.id, class: `toast ${one.tone}` }, h("span", null, one.text), h("button", { class: "icon-button", "aria-label": "Dismiss", onclick: () => dismiss(one) }, "×"))),
  );
}

// What can be done to a version: [{label, run, danger, disabled, why}].
export function actionsOf(model, modelApi) {
  const what = `${model.name} ${model.version}`;
  const off = modelApi ? "" : "Switched off: start the server with --enable-model-api, or set enable_model_api=true.";
  return [
    { label: "Scale", run: () => scale(model, what) },
    !model.default && { label: "Set as default", run: () => setDefault(model, what) },
    { label: "Update", run: () => update(model, what), why: off },
    model.before && { label: "Roll back", run: () => rollBack(model, what) },
    { label: "Unregister", run: () => unregister(model, what), danger: true, why: off },
  ].filter(Boolean);
}

function scale(model, what) {
  const number = { type: "number", min: 0, max: 1000, required: true, inputmode: "numeric" };
  ask({
    title: `Scale ${what}`,
    about: "The number of workers follows the load between the two. Workers that are too many finish what they have.",
    fields: [
      { ...number, name: "min_worker", label: "Workers, at least", value: model.minWorkers },
      { ...number, name: "max_worker", label: "Workers, at most", value: model.maxWorkers },
    ],
    action: "Scale",
    run: (values) => manage("PUT", modelPath(model), { ...values, synchronous: "true" }),
  });
}

function setDefault(model, what) {
  ask({
    title: `Make ${what} the default`,
    about: `Requests to ${model.name} that name no version will be answered by version ${model.version}.`,
    action: "Set as default",
    run: () => manage("PUT", `${modelPath(model)}/set-default`),
  });
}

function update(model, what) {
  ask({
    title: `Update ${what}`,
    about: "The new archive is loaded beside the old one and takes over when its workers are ready. No request is lost, and you can roll back.",
    fields: [{ name: "url", label: "Archive", value: model.archive, required: true, about: "A name in the model store, or a URL that allowed_urls allows." }],
    action: "Update",
    run: (values) => manage("PUT", modelPath(model), values),
  });
}

function rollBack(model, what) {
  ask({
    title: `Roll ${what} back`,
    about: `It is served again from ${model.before}, as before the last update.`,
    action: "Roll back",
    run: () => manage("POST", `${modelPath(model)}/rollback`),
  });
}

function unregister(model, what) {
  const others = versionsOf(model.name).length - 1;
  ask({
    title: `Unregister ${what}?`,
    about: others
      ? `Requests that it has accepted are answered first; then its workers end. Other versions of ${model.name} stay.`
      : `Requests that it has accepted are answered first; then its workers end, and ${model.name} is served no more.`,
    action: "Unregister",
    danger: true,
    run: () => manage("DELETE", modelPath(model)),
    done: () => (location.hash = "#/"),
  });
}

export function register() {
  ask({
    title: "Register a model",
    about: "An archive becomes a model, or another version of one. It answers when its workers are ready.",
    fields: [
      { name: "url", label: "Archive", required: true, placeholder: "name.mar", about: "A name in the model store, or a URL that allowed_urls allows." },
      { name: "model_name", label: "Name", about: "Without one, the archive's own." },
      { name: "initial_workers", label: "Workers", type: "number", min: 0, max: 1000, value: 1 },
      { name: "batch_size", label: "Requests in a batch, at most", type: "number", min: 1, placeholder: "as the archive says" },
      { name: "max_batch_delay", label: "Milliseconds that a batch waits to fill", type: "number", min: 0, placeholder: "as the archive says" },
    ],
    action: "Register",
    run: (values) => manage("POST", "models", values),
  });
}
