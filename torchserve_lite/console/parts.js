// What several views show in the same way.

import { h } from "./dom.js";
import { bytes, clock, moment, plural, since } from "./format.js";
import { now, state } from "./store.js";

const TONES = { ready: "good", failed: "bad", restarting: "warn", starting: "warn", stopping: "idle" };

export function pill(text, tone) {
  return h("span", { class: `pill ${tone ?? TONES[text] ?? "idle"}` }, text);
}

// How a version fares, in a word.
export function healthOf(model) {
  const ready = (model.workers ?? []).filter((worker) => worker.state === "ready").length;
  if (model.state === "failed") return ["failed", "bad"];
  if (model.state === "opening" || model.state === "loading") return ["loading", "warn"];
  if (model.candidate) return ["updating", "warn"];
  if (model.wanted === 0) return ["no workers", "idle"];
  if (ready === 0) return [model.workers.some((worker) => worker.failures) ? "failing" : "starting", model.workers.some((worker) => worker.failures) ? "bad" : "warn"];
  if (ready < model.wanted) return ["degraded", "warn"];
  return ["ready", "good"];
}

export function link(href, ...children) {
  return h("a", { href }, ...children);
}

export function modelHref(model) {
  return `#/models/${encodeURIComponent(model.name)}/${encodeURIComponent(model.version)}`;
}

export function emptyState(title, about, action) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), h("p", null, about), action);
}

// The same failure again and again is one entry.
export function failureList(failures, withModel) {
  const grouped = new Map();
  for (const failure of failures) {
    const key = JSON.stringify([failure.model, failure.version, failure.reason, failure.message.replace(/\d+/g, "0")]);
    const before = grouped.get(key);
    grouped.delete(key); // so that the newest come last
    grouped.set(key, { ...failure, key, times: (before?.times ?? 0) + 1, first: before?.first ?? failure.at });
  }
  return h(
    "ol",
    { class: "failures" },
    [...grouped.values()]
      .reverse()
      .slice(0, 10)
      .map((failure) =>
        h(
          "li",
          { key: failure.key, class: "failure" },
          h("time", { title: moment(failure.at), datetime: new Date(failure.at * 1000).toISOString() }, clock(failure.at)),
          h(
            "div",
            { class: "failure-what" },
            h(
              "p",
              { class: "failure-head" },
              pill(failure.reason, "bad"),
              h("span", { class: "quiet" }, withModel ? [link(modelHref({ name: failure.model, version: failure.version }), `${failure.model} ${failure.version}`), ", "] : "", `worker ${failure.worker}`),
              failure.times > 1 && h("span", { class: "tag" }, `${failure.times} times since ${clock(failure.first)}`),
            ),
            h("p", { class: "failure-message" }, failure.message),
            failure.traceback && h("details", null, h("summary", null, "Traceback"), h("pre", { class: "code", tabindex: 0 }, failure.traceback)),
          ),
        ),
      ),
  );
}

export function workersTable(model) {
  const failures = state.failures.filter((failure) => failure.model === model.name && failure.version === model.version);
  const lastOf = (worker) => worker.lastFailure || failures.filter((failure) => failure.worker === worker.id).at(-1)?.message || "";
  return h(
    "div",
    { class: "table-frame", tabindex: 0, role: "region", "aria-label": `Workers of ${model.name} ${model.version}` },
    h(
      "table",
      { class: "table workers" },
      h("thead", null, h("tr", null, ["Worker", "State", "Pid", "Device", "Memory", "Up", "Restarts", "Last failure"].map((title) => h("th", { scope: "col" }, title)))),
      h(
        "tbody",
        null,
        model.workers.map((worker) =>
          h(
            "tr",
            { key: worker.id },
            h("th", { scope: "row", class: "mono" }, worker.id),
            h("td", { "data-label": "State" }, pill(worker.state)),
            h("td", { class: "mono", "data-label": "Pid" }, worker.pid ?? "–"),
            h("td", { "data-label": "Device" }, worker.gpu === null ? "CPU" : `GPU ${worker.gpu}`),
            h("td", { class: "number", "data-label": "Memory" }, bytes(worker.memory)),
            h("td", { class: "number", "data-label": "Up" }, worker.state === "ready" ? since(worker.started, now()) : "–"),
            h("td", { class: `number ${worker.failures ? "bad-text" : ""}`, "data-label": "Restarts" }, worker.failures),
            h("td", { class: "why", "data-label": "Last failure" }, lastOf(worker) || "–"),
          ),
        ),
      ),
    ),
  );
}

export function workersText(model) {
  const ready = model.workers.filter((worker) => worker.state === "ready").length;
  return ready === model.wanted ? plural(ready, "worker") : `${ready} of ${plural(model.wanted, "worker")}`;
}
