// One version of a model: its figures, its workers, its settings, and what can be done to it.

import { actionsOf } from "./dialogs.js";
import { h } from "./dom.js";
import { durationText } from "./format.js";
import { charts } from "./overview.js";
import { emptyState, failureList, healthOf, link, modelHref, pill, workersTable } from "./parts.js";
import { state, versionsOf } from "./store.js";

export function modelView(name, version) {
  const model = (state.models ?? []).find((one) => one.name === name && one.version === version);
  if (!model) {
    return emptyState("It is not served", `There is no version ${version} of ${name} on this server.`, link("#/", "Back to all models"));
  }
  const [health, tone] = healthOf(model);
  const others = versionsOf(name);
  const failures = state.failures.filter((failure) => failure.model === name && failure.version === version);
  const actions = actionsOf(model, state.server.modelApi);
  return [
    h("nav", { class: "crumbs", "aria-label": "Where you are" }, link("#/", "Models"), h("span", { "aria-hidden": "true" }, "/"), h("span", { "aria-current": "page" }, name)),
    h(
      "div",
      { class: "title-row" },
      h("div", null, h("h1", null, name, h("span", { class: "version large" }, version)), h("p", { class: "pills" }, pill(health, tone), model.default && h("span", { class: "tag" }, "default"), model.workflow && h("span", { class: "tag" }, `workflow ${model.workflow}`))),
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button primary", href: `#/try/${encodeURIComponent(name)}/${encodeURIComponent(version)}` }, "Try it"),
        actions.map((action) => h("button", { key: action.label, class: `button ${action.danger ? "danger-text" : ""}`, onclick: action.run, disabled: Boolean(action.why), title: action.why || undefined }, action.label)),
      ),
    ),
    actions.some((action) => action.why) && h("p", { class: "quiet hint-line" }, "Updating and unregistering are switched off: start the server with --enable-model-api to have them here."),
    model.cause && h("p", { class: "problem" }, model.cause),
    others.length > 1 && h("nav", { class: "tabs", "aria-label": "Versions" }, others.map((one) => h("a", { key: one.version, href: modelHref(one), "aria-current": one.version === version ? "page" : undefined }, one.version, one.default && h("span", { class: "tag" }, "default")))),
    charts(`model-${name}-${version}`, model),
    h("div", { class: "section-head" }, h("h2", null, "Workers"), h("span", { class: "quiet" }, model.minWorkers === model.maxWorkers ? `${model.wanted} wanted` : `${model.wanted} wanted, ${model.minWorkers} to ${model.maxWorkers} by load`)),
    model.workers.length ? workersTable(model) : emptyState("No workers", "It answers 503 until it is scaled up."),
    failures.length > 0 && [h("div", { class: "section-head" }, h("h2", null, "What went wrong")), failureList(failures, false)],
    h("div", { class: "section-head" }, h("h2", null, "Settings")),
    h(
      "dl",
      { class: "settings card" },
      [
        ["Archive", model.archive || "of a workflow"],
        ["Handler", model.handler],
        ["Runtime", model.runtime],
        ["Batch", `${model.batchSize} at most, waits ${durationText(model.maxBatchDelay)}`],
        ["Queue", `${model.queueSize} at most`],
        ["Response timeout", durationText(model.responseTimeout)],
        model.before && ["Before the update", model.before],
        model.candidate && ["Being loaded", model.candidate],
      ]
        .filter(Boolean)
        .map(([title, text]) => h("div", { key: title }, h("dt", null, title), h("dd", null, text))),
    ),
  ];
}
