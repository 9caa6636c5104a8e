// The end of the server's log.

import { h } from "./dom.js";
import { clock, moment } from "./format.js";
import { emptyState } from "./parts.js";
import { changed, state } from "./store.js";

const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
const CHOICES = { All: 0, Warnings: 2, Errors: 3 };
const chosen = { level: "All", text: "", follow: true };

export function logView() {
  const least = CHOICES[chosen.level];
  const text = chosen.text.toLowerCase();
  const shown = state.lines.filter((line) => LEVELS.indexOf(line.level) >= least && (!text || `${line.message} ${line.source} ${line.logger} ${line.traceback}`.toLowerCase().includes(text)));
  queueMicrotask(follow);
  return [
    h("div", { class: "title-row" }, h("div", null, h("h1", null, "Log"), h("p", { class: "quiet" }, "The last lines of the server and its workers, as they come."))),
    h(
      "div",
      { class: "toolbar" },
      h("div", { class: "segments", role: "group", "aria-label": "Levels" }, Object.keys(CHOICES).map((level) => h("button", { key: level, "aria-pressed": String(chosen.level === level), onclick: () => choose({ level }) }, level))),
      h("input", { class: "input grow", type: "search", placeholder: "Filter by text or worker", "aria-label": "Filter the log", oninput: (event) => choose({ text: event.target.value }) }),
      h("label", { class: "check" }, h("input", { type: "checkbox", checked: chosen.follow, onchange: (event) => choose({ follow: event.target.checked }) }), "Follow"),
    ),
    shown.length
      ? h(
          "div",
          { class: "log card", id: "log", role: "log", "aria-live": "off", "aria-label": "Log lines", tabindex: 0, onscroll: scrolled },
          shown.map((line) =>
            h(
              "div",
              { class: `log-line ${line.level.toLowerCase()}`, key: line.number },
              h("time", { title: moment(line.at) }, clock(line.at)),
              h("span", { class: "log-level" }, line.level === "WARNING" ? "WARN" : line.level),
              h("span", { class: "log-source", title: line.logger }, line.source),
              h("span", { class: "log-message" }, line.message, line.traceback && h("pre", null, line.traceback)),
            ),
          ),
        )
      : emptyState("No lines", state.lines.length ? "No line fits the filter." : "Nothing has been logged yet."),
  ];
}

function choose(what) {
  Object.assign(chosen, what);
  changed();
}

function follow() {
  const log = document.getElementById("log");
  if (log && chosen.follow) log.scrollTop = log.scrollHeight;
}

// Whoever scrolls up wants to read; at the end again, it follows again.
function scrolled(event) {
  const { scrollTop, scrollHeight, clientHeight } = event.target;
  const atEnd = scrollHeight - scrollTop - clientHeight < 24;
  if (atEnd !== chosen.follow) choose({ follow: atEnd });
}
