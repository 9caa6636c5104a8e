// All models at a glance: what they do, how they fare, what went wrong.

import { chart, sparkline } from "./charts.js";
import { register } from "./dialogs.js";
import { h } from "./dom.js";
import { bytes, count, duration, durationText, plural, rate, since, size } from "./format.js";
import { emptyState, failureList, healthOf, link, modelHref, pill, workersText } from "./parts.js";
import { figuresOf, keyOf, now, state } from "./store.js";

export function overview() {
  const models = state.models ?? [];
  const troubled = models.filter((model) => healthOf(model)[1] === "bad");
  const workers = models.flatMap((model) => model.workers ?? []);
  const memory = workers.reduce((sum, worker) => sum + worker.memory, state.memory);
  return [
    h(
      "div",
      { class: "title-row" },
      h(
        "div",
        null,
        h("h1", null, troubled.length ? `${plural(troubled.length, "model")} in trouble` : models.length ? "All models are well" : "Nothing is served yet"),
        h("p", { class: "quiet facts" }, [plural(models.length, "model"), plural(workers.length, "worker"), `${bytes(memory)} of memory`, `up ${since(state.server.started, now())}`].map((fact) => h("span", null, fact))),
      ),
      state.server.modelApi && h("button", { class: "button primary", onclick: register }, "Register a model"),
    ),
    charts("all", null),
    h("div", { class: "section-head" }, h("h2", null, "Models")),
    models.length ? h("ul", { class: "models" }, models.map(modelRow)) : emptyState("No models", "Start the server with --models all, or register an archive of the model store.", state.server.modelApi && h("button", { class: "button", onclick: register }, "Register a model")),
    h("div", { class: "section-head" }, h("h2", null, "What went wrong"), h("span", { class: "quiet" }, "deaths and failed starts of workers")),
    state.failures.length ? failureList(state.failures, true) : emptyState("Nothing", "No worker has died or failed to start since the server was started."),
  ];
}

// The four figures that matter, of a version or of all.
export function charts(id, model) {
  const of = (pick) => (sample) => pick(figuresOf(sample, model));
  const last = state.samples.at(-1);
  const figures = last ? figuresOf(last, model) : null;
  const recent = recentOf(model);
  const failing = mean(recent, "errors");
  const answered = recent.filter((one) => one.latencies).at(-1);
  const [latency, unit] = duration(answered?.latencies[1]);
  const quiet = !state.samples.some((sample) => of((one) => one.rate + one.errors)(sample));
  return h(
    "div",
    { class: "charts" },
    chart({
      id: `${id}-rate`,
      title: "Answers",
      value: rate(mean(recent, "rate")),
      unit: "a second",
      note: failing ? h("span", { class: "bad-text" }, `${rate(failing)} fail`) : null,
      series: [
        { name: "answered", tone: "accent", of: of((one) => one.rate) },
        { name: "failed", tone: "failed", of: of((one) => one.errors) },
      ],
      show: rate,
      least: 4,
      empty: quiet ? "No requests in the last five minutes" : null,
    }),
    chart({
      id: `${id}-latency`,
      title: "Latency",
      value: latency,
      unit: answered ? `${unit} at p95` : "at p95",
      series: [
        { name: "p50", tone: "soft", of: of((one) => one.latencies?.[0] ?? null) },
        { name: "p95", tone: "accent", of: of((one) => one.latencies?.[1] ?? null) },
        { name: "p99", tone: "strong", of: of((one) => one.latencies?.[2] ?? null) },
      ],
      show: durationText,
      least: 0.001,
      logarithmic: true,
    }),
    chart({
      id: `${id}-queue`,
      title: "Queue",
      value: count(figures?.queued ?? 0),
      unit: "waiting",
      note: figures?.running ? `${count(figures.running)} running` : null,
      series: [{ name: "waiting", tone: "accent", of: of((one) => one.queued) }],
      show: count,
      least: 4,
    }),
    chart({
      id: `${id}-batch`,
      title: "Batch size",
      value: size(recent.filter((one) => one.batchSize !== null).at(-1)?.batchSize ?? null),
      unit: "requests",
      series: [{ name: "requests", tone: "accent", of: of((one) => one.batchSize) }],
      show: size,
      least: 2,
    }),
  );
}

function modelRow(model) {
  const [health, tone] = healthOf(model);
  const opened = Boolean(model.version);
  const figures = state.samples.length ? figuresOf(state.samples.at(-1), model) : null;
  const failing = mean(recentOf(model), "errors");
  const last = state.samples.map((sample) => figuresOf(sample, model).latencies).filter(Boolean).at(-1);
  return h(
    "li",
    { key: keyOf(model), class: "model" },
    h(
      "div",
      { class: "model-name" },
      h("span", { class: "name" }, opened ? link(modelHref(model), model.name) : model.name),
      h("span", { class: "version" }, model.version),
      model.default && h("span", { class: "tag" }, "default"),
    ),
    h("div", { class: "model-state" }, pill(health, tone), opened && h("span", { class: "quiet" }, workersText(model))),
    opened && h("div", { class: "model-spark" }, sparkline((sample) => figuresOf(sample, model).rate, `Answers of ${model.name} ${model.version} over five minutes`)),
    opened && h("dl", { class: "model-figures" }, failing > 0 && fact("failed/s", h("span", { class: "bad-text" }, rate(failing))), fact("answers/s", rate(mean(recentOf(model), "rate"))), fact("p95", durationText(last?.[1])), fact("queue", count(figures?.queued ?? 0))),
    opened && h("a", { class: "button small", href: `#/try/${encodeURIComponent(model.name)}/${encodeURIComponent(model.version)}`, "aria-label": `Try ${model.name} ${model.version}` }, "Try it"),
    model.cause && h("p", { class: "model-cause" }, model.cause),
  );
}

// Of the last seconds; one alone would flicker.
function recentOf(model) {
  return state.samples.slice(-5).map((sample) => figuresOf(sample, model));
}

function mean(recent, figure) {
  return recent.length ? recent.reduce((sum, one) => sum + one[figure], 0) / recent.length : 0;
}

function fact(name, value) {
  return h("div", null, h("dt", null, name), h("dd", null, value));
}
