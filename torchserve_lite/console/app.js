// The frame of the page: where one is, whether the server is heard, who is asking; and the view in the middle.

import { key, setKey } from "./api.js";
import { drawDialogs, leaveDialog } from "./dialogs.js";
import { h, render } from "./dom.js";
import { logView } from "./log.js";
import { modelView } from "./model.js";
import { overview } from "./overview.js";
import { emptyState } from "./parts.js";
import { requestsView } from "./requests.js";
import { changed, connect, onChange, state } from "./store.js";
import { tryView } from "./tryit.js";

const PLACES = [
  ["#/", "Overview"],
  ["#/try", "Try it"],
  ["#/requests", "Requests"],
  ["#/log", "Log"],
];
const STATES = { connecting: ["Connecting", "warn"], live: ["Live", "good"], lost: ["Reconnecting", "bad"], key: ["Locked", "idle"], closed: ["Closed", "idle"] };
const THEME = "torchserve-lite console theme";

const bar = document.getElementById("bar");
const main = document.getElementById("main");
let place = null;

function draw() {
  const [view, ...names] = route();
  const here = view === "models" ? "#/" : `#/${view}`;
  document.title = `${names[0] ? `${names[0]} - ` : ""}${PLACES.find(([href]) => href === here)?.[1] ?? "Console"} - torchserve-lite`;
  render(bar, top(here));
  render(main, h("div", { class: "view", key: `${location.hash.split("?")[0]} ${state.server ? "" : state.connection}` }, body(view, names)));
  drawDialogs();
  if (place !== null && place !== location.hash) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  place = location.hash;
}

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  return parts;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function body(view, names) {
  if (state.connection === "key") return signIn();
  if (state.connection === "closed") return emptyState("The console is closed", state.problem);
  if (!state.server) {
    return state.connection === "lost"
      ? emptyState("The server does not answer", `${state.problem} The page tries again by itself.`)
      : h("div", { class: "skeleton", "aria-label": "Loading" }, h("i"), h("i"), h("i"), h("i"));
  }
  const views = { "": overview, models: () => modelView(...names), try: () => tryView(...names), requests: requestsView, log: logView };
  return [
    state.connection === "lost" && h("p", { class: "banner", role: "alert" }, `${state.problem} What you see is of the moment at which it was last heard. Trying again.`),
    views[view]?.() ?? emptyState("There is no such page", "The address names none.", h("a", { href: "#/" }, "Back to the overview")),
  ];
}

function top(here) {
  const [word, tone] = STATES[state.connection];
  return h(
    "div",
    { class: "bar-inner" },
    h("a", { class: "brand", href: "#/", "aria-label": "torchserve-lite console, overview" }, h("img", { src: new URL("mark.svg", import.meta.url).href, alt: "", width: 24, height: 24 }), h("span", { class: "brand-name" }, "torchserve-lite"), state.server && h("span", { class: "brand-version" }, state.server.version)),
    h("nav", { class: "places", "aria-label": "Views" }, PLACES.map(([href, title]) => h("a", { key: href, href, "aria-current": href === here ? "page" : undefined }, title))),
    h(
      "div",
      { class: "bar-end" },
      h("span", { class: `connection ${tone}`, role: "status" }, h("i", { "aria-hidden": "true" }), h("span", null, word)),
      key() && state.connection !== "key" && h("button", { class: "icon-button", title: "Forget the key", "aria-label": "Forget the management key", onclick: lock }, icon("M6 9V7a4 4 0 0 1 8 0v2M5 9h10v8H5z")),
      h("button", { class: "icon-button", title: "Light or dark", "aria-label": dark() ? "Use the light theme" : "Use the dark theme", onclick: switchTheme }, dark() ? icon("M10 6a4 4 0 1 0 0 8 4 4 0 0 0 0-8M10 1.500v2M10 16.500v2M1.500 10h2M16.500 10h2M4 4l1.400 1.400M14.600 14.600L16 16M4 16l1.400-1.400M14.600 5.400L16 4") : icon("M16.500 12.300A7 7 0 0 1 7.700 3.500a7 7 0 1 0 8.800 8.800z")),
    ),
  );
}

function icon(path) {
  return h("svg", { viewBox: "0 0 20 20", width: 18, height: 18, class: "icon", "aria-hidden": "true" }, h("path", { d: path }));
}

function signIn() {
  const tried = Boolean(key());
  return h(
    "form",
    {
      class: "sign-in card",
      onsubmit: (event) => {
        event.preventDefault();
        setKey(new FormData(event.target).get("key").trim());
        state.connection = "connecting";
        changed();
        connect();
      },
    },
    h("h1", null, "Management key"),
    h("p", { class: "quiet" }, "This server asks for a token. The key for management is in ", h("code", null, "key_file.json"), ", in the folder in which the server was started."),
    h("label", { for: "key" }, "Key"),
    h("input", { id: "key", name: "key", type: "password", class: "input", autocomplete: "off", required: true, spellcheck: "false" }),
    tried && h("p", { class: "problem", role: "alert" }, "The server did not take this key: it is another one, or it has expired. Renew it with the API key: see /token."),
    h("button", { class: "button primary" }, "Open the console"),
    h("p", { class: "field-about" }, "It is kept in this tab until you close it, and sent to this server only."),
  );
}

function lock() {
  setKey("");
  Object.assign(state, { server: null, models: null, samples: [], lines: [], failures: [], requests: [] });
  connect();
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function switchTheme() {
  const theme = dark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem(THEME, theme);
  changed();
}

const theme = localStorage.getItem(THEME);
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
addEventListener("hashchange", leaveDialog);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
onChange(draw);
draw();
connect();
