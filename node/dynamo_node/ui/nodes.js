// Nodes: one row each, as the node that serves the page sees them.

import { h, keyed, mark, say, stateSign } from "./dom.js";
import { bytes, count, duration, milliseconds, percent } from "./format.js";

const COLUMNS = [
  ["name", "Node"], ["state", "State"], ["zone", "Zone"], ["share", "Data, target"], ["keys", "Keys"], ["hints", "Hints kept for"],
  ["load", "Requests"], ["answer", "Answers in"], ["disk", "Disk"], ["life", "This life"],
];

export class NodeTable {
  constructor(room, onLight) {
    this.onLight = onLight;
    this.lit = null;
    this.body = h("tbody", { role: "rowgroup" });
    // Roles are said aloud because on a phone the rows are laid out as blocks.
    this.table = h("table", { role: "table", class: "nodes" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, COLUMNS.map(([name, title]) => h("th", { scope: "col", role: "columnheader", class: `c-${name}` }, title)))),
      this.body);
    room.replaceChildren(this.table);
  }

  update(state, cast) {
    this.table.classList.toggle("zoneless", !state.nodes.some((node) => node.zone));
    keyed(this.body, state.nodes, (node) => node.number, (node) => this.make(node, cast), (row, node) => this.fill(row, node, state, cast));
  }

  make(node, cast) {
    const cell = (name, title, ...content) => h("td", { role: "cell", class: `c-${name}`, "data-label": title }, ...content);
    const button = h("button", { type: "button", class: "name plain", "aria-pressed": "false", title: "Show this node in the ring", on: { click: () => this.light(node.number) } },
      h("span", { class: `swatch ${cast.colour(node.number)}` }), h("span", {}));
    const row = h("tr", { role: "row", on: { pointerenter: () => this.onLight(node.number), pointerleave: () => this.onLight(this.lit) } },
      h("th", { scope: "row", role: "rowheader", class: "c-name" }, button, h("span", { class: "here quiet" })));
    for (const [name, title] of COLUMNS.slice(1)) row.append(cell(name, title, h("span", { class: "main" }), h("span", { class: "more quiet" })));
    row.querySelector(".c-share").prepend(h("span", { class: "bar", "aria-hidden": "true" }, h("span", { class: "fill" }), h("span", { class: "target" })));
    return row;
  }

  light(number) {
    this.lit = this.lit === number ? null : number;
    for (const [key, row] of this.body.keyedChildren) mark(row.querySelector(".name"), "aria-pressed", String(key === this.lit));
    this.onLight(this.lit);
  }

  fill(row, node, state, cast) {
    const here = node.number === state.number;
    const figures = node.figures ?? {};
    const put = (name, text, more = "") => { say(row.querySelector(`.c-${name} .main`), text); say(row.querySelector(`.c-${name} .more`), more); };
    say(row.querySelector(".name").lastElementChild, node.name);
    say(row.querySelector(".here"), here ? "this one" : "");
    const shown = row.querySelector(".c-state .main");
    if (row.dataset.state !== node.state) {
      row.dataset.state = node.state;
      shown.replaceChildren(stateSign(node.state), h("span", {}, node.state));
    }
    const notes = [];
    if (node.read_only) notes.push("read-only");
    if (node.partitions_recovering) notes.push(`${count(node.partitions_recovering)} recovering`);
    const old = !here && node.figures_age_seconds !== null && node.figures_age_seconds > 3;
    row.classList.toggle("old", old || (!here && !node.figures));
    if (old) notes.push(`heard ${duration(node.figures_age_seconds)} ago`);
    say(row.querySelector(".c-state .more"), notes.join(" · "));
    put("zone", node.zone || "–");
    put("share", `${node.stored_percent.toFixed(1)}% of ${node.target_percent.toFixed(1)}%`, `${count(node.tokens)} tokens · capacity ${node.capacity}`);
    const bar = row.querySelector(".bar"), scale = Math.max(node.stored_percent, node.target_percent, 1) * 1.25;
    bar.firstElementChild.style.width = `${100 * node.stored_percent / scale}%`;
    bar.lastElementChild.style.left = `${100 * node.target_percent / scale}%`;
    put("keys", count(node.keys));
    const hints = Object.entries(figures.hints ?? {});
    put("hints", hints.length ? hints.map(([name, many]) => `${cast.numberOf(name) ? cast.short(cast.numberOf(name)) : name}: ${count(many)}`).join(", ") : count(node.hints_pending),
      hints.length ? bytes(figures.hint_bytes) : "");
    put("load", figures.operations_per_second === undefined ? "–" : `${count(figures.operations_per_second)}/s`,
      figures.background_share === undefined ? "" : `background ≤ ${percent(100 * figures.background_share)}`);
    put("answer", here ? "–" : milliseconds(node.answer_milliseconds), figures.p99_seconds ? `clients’ p99 ${milliseconds(1000 * figures.p99_seconds)}` : "");
    put("disk", bytes(figures.stored_bytes), figures.disk?.free_bytes ? `${bytes(figures.disk.free_bytes)} free${figures.disk.state !== "ok" ? `, ${figures.disk.state}` : ""}` : "");
    put("life", duration(figures.uptime_seconds), node.incarnation ? node.incarnation.slice(0, 8) : "");
    row.querySelector(".c-life .more").classList.add("mono");
  }
}
