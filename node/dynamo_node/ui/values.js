// Values: somebody's bytes as text, JSON or hex, never as markup.

import { h } from "./dom.js";

export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** The text, or null if it is none. What was cut may end within a letter. */
export function asText(bytes, cut) {
  for (let less = 0; less <= (cut ? 3 : 0); less += 1) {
    try { return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(0, bytes.length - less)); } catch { /* not yet */ }
  }
  return null;
}

export function asJson(text) {
  if (text === null || !/^\s*[[{"]/.test(text)) return null;
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return null; }
}

export function asHex(bytes) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, 4096); at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(47);
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex}  ${row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("")}`);
  }
  return lines.join("\n") + (bytes.length > 4096 ? "\n…" : "");
}

/** Letters that would turn or hide what is around them are shown by their numbers. */
export const plain = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** A value with a choice of how it is written. */
export function valueView(bytes, cut, name) {
  const text = asText(bytes, cut), json = cut ? null : asJson(text);
  const forms = [];
  if (json !== null) forms.push(["JSON", () => plain(json)]);
  if (text !== null) forms.push(["Text", () => plain(text)]);
  forms.push(["Hex", () => asHex(bytes)]);
  const pre = h("pre", { tabindex: 0, "aria-label": `Value of version ${name}` });
  const buttons = forms.map(([title, write]) => h("button", { type: "button", class: "plain tab", on: { click: () => choose(title) } }, title));
  function choose(title) {
    forms.forEach(([one, write], at) => { buttons[at].setAttribute("aria-pressed", String(one === title)); if (one === title) pre.textContent = write(); });
  }
  choose(forms[0][0]);
  return h("div", { class: "value" }, h("div", { class: "tabs", role: "group", "aria-label": "Show as" }, buttons), bytes.length ? pre : h("p", { class: "quiet" }, "The value is empty."));
}
