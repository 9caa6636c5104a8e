// What the page knows, and the stream of events from which it knows it.

import { Refused, call, refusal } from "./api.js";

const KEPT = { samples: 300, lines: 1000, failures: 100, requests: 200 };
const SILENCE = 6000; // milliseconds after which the stream, which speaks once a second, counts as dead
const WAITS = [500, 1000, 2000, 4000]; // milliseconds before the next attempt

export const state = {
  connection: "connecting", // live, lost, key, closed
  problem: "",
  server: null,
  memory: 0,
  samples: [],
  models: null,
  failures: [],
  lines: [],
  requests: [],
};

const listeners = new Set();

export function onChange(listener) {
  listeners.add(listener);
}

let pending = false;

// Redraws with the next frame, once for all that changed.
export function changed() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    for (const listener of listeners) listener();
  });
}

export function keyOf(model) {
  return JSON.stringify([model.name, model.version]);
}

export function now() {
  return state.samples.at(-1)?.at ?? Date.now() / 1000;
}

export function versionsOf(name) {
  return (state.models ?? []).filter((model) => model.name === name);
}

// The figures of a version in a sample, or of all when there is none.
export function figuresOf(sample, model) {
  return model ? (sample.byKey.get(keyOf(model)) ?? IDLE) : sample;
}

const IDLE = { rate: 0, errors: 0, latencies: null, batchSize: null, queued: 0, running: 0 };

let lineNumber = 0;

function take(news) {
  if (news.server) Object.assign(state, { server: news.server, samples: [], failures: [], lines: [], requests: [] });
  if (news.models) state.models = news.models;
  if (news.memory) state.memory = news.memory;
  for (const sample of news.samples ?? []) sample.byKey = new Map(sample.models.map((one) => [keyOf(one), one]));
  for (const line of news.lines ?? []) line.number = lineNumber++;
  for (const [what, most] of Object.entries(KEPT)) {
    if (news[what]?.length) state[what] = state[what].concat(news[what]).slice(-most);
  }
  state.connection = "live";
  state.problem = "";
  changed();
}

let attempt = new AbortController();
let retry = 0;

// Begins anew, for instance with another key.
export async function connect() {
  attempt.abort();
  clearTimeout(retry);
  const mine = (attempt = new AbortController());
  let failures = 0;
  while (!mine.signal.aborted) {
    try {
      await listen(mine, () => (failures = 0));
      lost("The server has ended the connection.");
    } catch (error) {
      if (mine.signal.aborted && mine.signal.reason !== "silent") return;
      if (error instanceof Refused && error.isOfTheKey) return settled("key", error.message);
      if (error instanceof Refused && error.status === 403) return settled("closed", error.message);
      lost(error instanceof Refused ? error.message : "The server does not answer.");
    }
    await new Promise((resume) => (retry = setTimeout(resume, WAITS[Math.min(failures++, WAITS.length - 1)])));
  }
}

function settled(connection, problem) {
  Object.assign(state, { connection, problem });
  changed();
}

function lost(problem) {
  settled("lost", problem);
}

async function listen(mine, heard) {
  const watch = new AbortController();
  const stop = () => watch.abort();
  mine.signal.addEventListener("abort", stop);
  let silence = setTimeout(stop, SILENCE);
  try {
    const response = await call("GET", "console/events", { signal: watch.signal, headers: { Accept: "text/event-stream" } });
    if (!response.ok) throw await refusal(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(stop, SILENCE);
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue; // a heartbeat
        take(JSON.parse(event.slice("data: ".length)));
        heard();
      }
    }
  } finally {
    clearTimeout(silence);
    mine.signal.removeEventListener("abort", stop);
  }
}
