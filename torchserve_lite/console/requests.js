// The last requests, and where their time went.

import { h } from "./dom.js";
import { clock, durationText, moment } from "./format.js";
import { emptyState } from "./parts.js";
import { changed, state } from "./store.js";

// In the order in which they pass; what is left of a request was spent in the server around its model.
const PARTS = [
  ["queue", "waiting in the queue"],
  ["way", "on the way to the worker and back"],
  ["handler", "in the handler"],
  ["rest", "reading and writing"],
];

const chosen = { text: "", failed: false, open: null, held: null }; // `held`: what was there when it was stopped

export function requestsView() {
  const text = chosen.text.toLowerCase();
  const shown = (chosen.held ?? state.requests).filter((one) => (!chosen.failed || isBad(one)) && (!text || `${one.asked} ${one.id} ${one.error} ${one.peer}`.toLowerCase().includes(text))).reverse();
  return [
    h("div", { class: "title-row" }, h("div", null, h("h1", null, "Requests"), h("p", { class: "quiet" }, "The last ones since this page was opened, up to 50 of each second, and where their time went."))),
    h(
      "div",
      { class: "toolbar" },
      h(
        "div",
        { class: "segments", role: "group", "aria-label": "Which requests" },
        [false, true].map((failed) => h("button", { key: failed, "aria-pressed": String(chosen.failed === failed), onclick: () => choose({ failed }) }, failed ? "Failed" : "All")),
      ),
      h("input", { class: "input grow", type: "search", placeholder: "Filter by path, id or error", "aria-label": "Filter the requests", oninput: (event) => choose({ text: event.target.value }) }),
      h("label", { class: "check" }, h("input", { type: "checkbox", checked: chosen.held === null, onchange: (event) => choose({ held: event.target.checked ? null : state.requests }) }), "Follow"),
    ),
    legend(),
    shown.length
      ? h("ol", { class: "requests card" }, shown.slice(0, 100).map(row))
      : emptyState(state.requests.length ? "None of these" : "No requests yet", state.requests.length ? "No request fits the filter." : "They appear here as they are answered, while this page is open."),
  ];
}

function legend() {
  return h("ul", { class: "parts-legend" }, PARTS.map(([part, title]) => h("li", { key: part, class: `part-${part}` }, title)));
}

export function timeBar(request) {
  const whole = request.seconds || 1e-9;
  const spent = partsOf(request);
  return h(
    "span",
    { class: "request-bar", role: "img", "aria-label": PARTS.map(([part, title]) => `${durationText(spent[part])} ${title}`).join(", ") },
    PARTS.map(([part]) => spent[part] > 0 && h("i", { key: part, class: `part-${part}`, css: { width: `${Math.min(100, (spent[part] / whole) * 100)}%` } })),
  );
}

export function timeList(request) {
  const spent = partsOf(request);
  const steps = request.runs.flatMap((run) => run.steps);
  const line = (key, part, title, seconds) => h("div", { key, class: part }, h("dt", null, title), h("dd", null, durationText(seconds)));
  return h(
    "dl",
    { class: "times" },
    PARTS.map(([part, title]) => [line(part, `part-${part}`, title, spent[part]), part === "handler" && steps.map((step, index) => line(`step-${index}`, "step", step.name, step.seconds))]),
  );
}

function partsOf(request) {
  const sum = (part) => request.runs.reduce((total, run) => total + run[part], 0);
  const spent = { queue: sum("queue"), way: sum("way"), handler: sum("handler") };
  return { ...spent, rest: Math.max(0, request.seconds - spent.queue - spent.way - spent.handler) };
}

function row(request) {
  const open = chosen.open === request.id;
  const run = request.runs.at(-1);
  return h(
    "li",
    { key: request.id, class: "request" },
    h(
      "button",
      { class: "request-head", "aria-expanded": String(open), onclick: () => choose({ open: open ? null : request.id }) },
      h("time", { title: moment(request.began) }, clock(request.began)),
      h("span", { class: `pill ${isBad(request) ? "bad" : "good"}` }, request.status ?? "left"),
      h("span", { class: "request-asked" }, request.asked),
      h("span", { class: "request-seconds" }, durationText(request.seconds)),
      timeBar(request),
    ),
    request.error && h("p", { class: "request-error" }, request.error),
    open &&
      h(
        "div",
        { class: "request-more" },
        timeList(request),
        h(
          "dl",
          { class: "headers" },
          [
            ["id", request.id],
            ["client", request.peer],
            ["model", request.runs.map((one) => `${one.name} ${one.version}`).join(", ")],
            ["batch", run?.batchSize ? `of ${run.batchSize}` : "no worker has had it"],
          ].map(([title, text]) => h("div", { key: title }, h("dt", null, title), h("dd", null, text))),
        ),
      ),
  );
}

// A status of HTTP, or of gRPC's, where 0 is well.
function isBad(request) {
  return request.status === null || request.error !== "" || request.status >= 400;
}

function choose(what) {
  Object.assign(chosen, what);
  changed();
}
