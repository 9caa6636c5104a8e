// Elements from descriptions. `h` describes, `render` makes what is there look like the description and touches nothing
// else, so that focus, selections and half-filled forms survive the redraw of each second.
//
// Text becomes text nodes and attributes go through setAttribute: nothing that a server, a model or a log line says is
// ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "open", "hidden", "indeterminate"]);

export function h(tag, attributes, ...children) {
  return { tag, attributes: attributes ?? {}, children: flat(children), key: attributes?.key };
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

export function render(parent, ...children) {
  patchChildren(parent, flat(children), parent.namespaceURI === SVG && parent.tagName !== "foreignObject");
}

function patchChildren(parent, wanted, inSvg) {
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.description?.key !== undefined) keyed.set(node.description.key, node);
  let place = parent.firstChild;
  for (const child of wanted) {
    const found = child?.key !== undefined ? keyed.get(child.key) : place;
    const fitting = found && fits(found, child) ? found : null;
    const node = fitting ?? create(child, inSvg);
    if (fitting && typeof child === "object") patch(node, child);
    else if (fitting && node.data !== String(child)) node.data = String(child);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function fits(node, child) {
  if (typeof child !== "object") return node.nodeType === Node.TEXT_NODE;
  return node.description !== undefined && node.description.tag === child.tag && node.description.key === child.key;
}

function create(child, inSvg) {
  if (typeof child !== "object") return document.createTextNode(String(child));
  const svg = inSvg || child.tag === "svg";
  const node = svg ? document.createElementNS(SVG, child.tag) : document.createElement(child.tag);
  node.description = { tag: child.tag, key: child.key, attributes: {}, children: [] };
  patch(node, child);
  child.attributes.created?.(node);
  return node;
}

function patch(node, child) {
  const before = node.description.attributes;
  const now = child.attributes;
  for (const name of Object.keys(before)) if (!(name in now)) set(node, name, undefined);
  for (const [name, value] of Object.entries(now)) if (before[name] !== value) set(node, name, value);
  node.description.attributes = now;
  if (!now.own) patchChildren(node, child.children, node.namespaceURI === SVG); // `own`: it fills itself
}

function set(node, name, value) {
  if (name === "key" || name === "created" || name === "own") return;
  if (name.startsWith("on")) node[name] = value ?? null;
  else if (name === "css") for (const [property, text] of Object.entries(value ?? {})) node.style.setProperty(property, text);
  else if (PROPERTIES.has(name)) node[name] = value ?? (name === "value" ? "" : false);
  else if (value === undefined || value === null || value === false) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}
