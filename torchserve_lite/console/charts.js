// Figures over the last minutes, drawn as SVG. Lines are in a box of 100 by 100 that is stretched to the room there is.

import { h } from "./dom.js";
import { clock, roundUp } from "./format.js";
import { changed, now, state } from "./store.js";

const SPAN = 300; // seconds

// `series`: [{name, tone, of(sample) -> number or null}]; one alone is drawn with its area. `show(value)`: as text.
// `logarithmic`: an axis of powers of ten, on which one slow answer does not flatten all others.
export function chart({ id, title, value, unit, note, series, show, least = 1, empty, logarithmic = false }) {
  const end = now();
  const samples = state.samples;
  const values = samples.flatMap((sample) => series.map((one) => one.of(sample) ?? 0)).filter((number) => number > 0);
  const x = (sample) => 100 - ((end - sample.at) / SPAN) * 100;
  const { top, bottom, middle, y } = logarithmic ? powersOfTen(values, least) : linear(values, least);
  const pointed = hovered?.id === id ? nearest(samples, end - SPAN + hovered.share * SPAN) : null;
  const most = Math.max(0, ...samples.map((sample) => series.at(-1).of(sample) ?? 0));
  return h(
    "section",
    { class: "card chart", "aria-labelledby": `${id}-title` },
    h(
      "header",
      { class: "chart-head" },
      h("h2", { id: `${id}-title` }, title),
      series.length > 1 && h("ul", { class: "legend" }, series.map((one) => h("li", { class: one.tone }, one.name))),
    ),
    h("p", { class: "figure" }, h("span", { class: "figure-number" }, value), unit && h("span", { class: "unit" }, unit), note && h("span", { class: "figure-note" }, note)),
    h(
      "div",
      { class: "plot", onpointermove: (event) => point(id, event), onpointerleave: () => point(null) },
      h(
        "svg",
        { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": `${title}, last five minutes: now ${value} ${unit ?? ""}, at most ${show(most)}.` },
        [0, 50, 100].map((height) => h("line", { class: height === 100 ? "axis" : "grid", x1: 0, x2: 100, y1: height, y2: height })),
        series.map((one, index) => {
          const path = line(samples, one.of, x, y);
          return h(
            "g",
            { class: `series ${one.tone}`, key: one.name },
            index === 0 && series.length === 1 && h("path", { class: "area", d: area(samples, one.of, x, y) }),
            h("path", { class: "line", d: path }),
          );
        }),
        pointed && h("line", { class: "pointer", x1: x(pointed), x2: x(pointed), y1: 0, y2: 100 }),
      ),
      h("span", { class: "tick top" }, show(top)),
      h("span", { class: "tick middle" }, show(middle)),
      bottom > 0 && h("span", { class: "tick bottom" }, show(bottom)),
      empty && h("p", { class: "plot-empty" }, empty),
      pointed &&
        h(
          "div",
          { class: `hint ${x(pointed) > 60 ? "left" : ""}`, css: { left: `${x(pointed)}%` } },
          h("span", { class: "hint-time" }, clock(pointed.at)),
          series.map((one) => h("span", { class: `hint-value ${one.tone}` }, series.length > 1 && h("i", null, one.name), one.of(pointed) === null ? "–" : show(one.of(pointed)))),
        ),
    ),
    h("div", { class: "time-axis", "aria-hidden": "true" }, h("span", null, "5 min ago"), h("span", { class: "wide-only" }, "2.5 min"), h("span", null, "now")),
  );
}

function linear(values, least) {
  const top = roundUp(Math.max(0, ...values), least);
  return { top, bottom: 0, middle: top / 2, y: (number) => 100 - (number / top) * 100 };
}

function powersOfTen(values, least) {
  const low = Math.floor(Math.log10(Math.min(least, ...values)) + 1e-9);
  const high = Math.max(low + 2, Math.ceil(Math.log10(Math.max(least, ...values)) - 1e-9));
  const y = (number) => 100 - ((Math.log10(number) - low) / (high - low)) * 100;
  return { top: 10 ** high, bottom: 10 ** low, middle: 10 ** ((low + high) / 2), y };
}

export function sparkline(of, label, tone = "accent") {
  const end = now();
  const samples = state.samples;
  const top = Math.max(1, ...samples.map((sample) => of(sample) ?? 0)) * 1.1;
  const x = (sample) => 100 - ((end - sample.at) / SPAN) * 100;
  const y = (number) => 98 - (number / top) * 96;
  return h(
    "svg",
    { class: "spark", viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label },
    h("g", { class: `series ${tone}` }, h("path", { class: "area", d: area(samples, of, x, y) }), h("path", { class: "line", d: line(samples, of, x, y) })),
  );
}

function line(samples, of, x, y) {
  let path = "";
  let drawing = false;
  for (const sample of samples) {
    const value = of(sample);
    if (value === null || x(sample) < -1) {
      drawing = false;
      continue;
    }
    // A value alone is a point: a line of next to no length with round ends
    path += drawing ? `L${fixed(x(sample))} ${fixed(y(value))}` : `M${fixed(x(sample))} ${fixed(y(value))}h.01`;
    drawing = true;
  }
  return path;
}

function area(samples, of, x, y) {
  const seen = samples.filter((sample) => x(sample) >= -1);
  if (!seen.length) return "";
  const points = seen.map((sample) => `L${fixed(x(sample))} ${fixed(y(of(sample) ?? 0))}`).join("");
  return `M${fixed(x(seen[0]))} ${fixed(y(0))}${points}L${fixed(x(seen.at(-1)))} ${fixed(y(0))}Z`;
}

function fixed(number) {
  return Number(number.toFixed(2));
}

let hovered = null;

function point(id, event) {
  const box = event?.currentTarget.getBoundingClientRect();
  hovered = id === null ? null : { id, share: (event.clientX - box.left) / box.width };
  changed();
}

function nearest(samples, at) {
  let best = null;
  for (const sample of samples) if (!best || Math.abs(sample.at - at) < Math.abs(best.at - at)) best = sample;
  return best;
}
