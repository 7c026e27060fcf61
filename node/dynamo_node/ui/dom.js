// DOM: elements from plain values. Text is always text: keys and values are anybody's bytes,
// so nothing here (or elsewhere) parses markup.

const SVG = "http://www.w3.org/2000/svg";

function give(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else element.setAttribute(name, value === true ? "" : value);
  }
  return element;
}

/** An HTML element with attributes (`on`: listeners) and children; strings become text. */
export function h(tag, properties = {}, ...children) {
  const element = give(document.createElement(tag), properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** The same in SVG. */
export function s(tag, properties = {}, ...children) {
  const element = give(document.createElementNS(SVG, tag), properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Set text only when it changed: selections stay, and screen readers hear of news alone. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute only when it changed; null takes it away. */
export function mark(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Keep `parent`'s children in step with `items`: one for each key, made once, updated in place. */
export function keyed(parent, items, keyOf, make, update) {
  const known = parent.keyedChildren ??= new Map();
  const wanted = new Set(items.map(keyOf));
  for (const [key, child] of known) {
    if (!wanted.has(key)) { child.remove(); known.delete(key); }
  }
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = known.get(key);
    if (!child) known.set(key, child = make(item));
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
}

/** A small sign for a node's state: its shape says it without its colour. */
export function stateSign(state) {
  const shapes = {
    up: () => s("circle", { cx: 6, cy: 6, r: 4.5, fill: "currentColor" }),
    recovering: () => [s("circle", { cx: 6, cy: 6, r: 4.2, class: "line" }), s("path", { d: "M6 1.800a4.200 4.200 0 0 1 0 8.400z", fill: "currentColor" })],
    joining: () => s("path", { d: "M6 1.500v9M1.500 6h9", class: "line" }),
    leaving: () => s("path", { d: "M1.500 6h8M6.500 2.500L10 6 6.500 9.500", class: "line" }),
    suspect: () => s("path", { d: "M6 1.500L11 10.500H1z", class: "line" }),
    down: () => s("path", { d: "M2 2l8 8M10 2l-8 8", class: "line" }),
  };
  const shape = shapes[state] ?? (() => s("circle", { cx: 6, cy: 6, r: 4.2, class: "line" }));
  return s("svg", { viewBox: "0 0 12 12", class: "sign", "aria-hidden": "true" }, shape());
}
