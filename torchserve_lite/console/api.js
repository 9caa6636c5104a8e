// Calls to the server beside which this page lies, whatever path a proxy has put it under.

const ROOT = new URL("../", import.meta.url);
const KEY = "torchserve-lite management key";

export class Refused extends Error {
  constructor(status, type, message) {
    super(message);
    this.status = status;
    this.type = type;
  }

  get isOfTheKey() {
    return this.type === "InvalidKeyException" || this.status === 401;
  }
}

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

// It lives as long as the tab does.
export function setKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

export async function call(method, path, { body, headers, signal, query } = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== "" && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  const authorization = key() ? { Authorization: `Bearer ${key()}` } : {};
  const options = { method, body, signal, headers: { ...authorization, ...headers }, cache: "no-store", credentials: "omit" };
  return await fetch(url, { ...options, redirect: "error" });
}

// The status text of a management call; Refused with the server's own message.
export async function manage(method, path, query) {
  const response = await call(method, path, { query });
  if (!response.ok) throw await refusal(response);
  return (await response.json()).status ?? "Done.";
}

export async function refusal(response) {
  const text = await response.text();
  try {
    const told = JSON.parse(text);
    return new Refused(response.status, told.type ?? "", told.message ?? told.status ?? text);
  } catch {
    return new Refused(response.status, "", text.slice(0, 500) || `The server answered ${response.status}.`);
  }
}

export function modelPath(model) {
  const name = encodeURIComponent(model.name);
  return model.version ? `models/${name}/${encodeURIComponent(model.version)}` : `models/${name}`;
}
