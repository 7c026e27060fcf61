// Ring: the picture. Outer band: whose token a partition is; inner bands: who holds a slot.
// Each node's cells of a band are one path, so that thousands of partitions are a few
// elements; which partition is meant follows from the angle.

import { byId, h, keyed, mark, s, say } from "./dom.js";
import { holdersOf, movesByPartition } from "./holders.js";
import { bytes, percent, several } from "./format.js";

const MID = 230;
const ZONES = 222, TOKENS = 202, SLOTS_FROM = 180, SLOTS_DEEP = 38, MOVES = 134, STATIONS = 84;

const angle = (at, partitions) => 2 * Math.PI * at / partitions - Math.PI / 2;
const xy = (radius, a) => [MID + radius * Math.cos(a), MID + radius * Math.sin(a)];
const written = ([x, y]) => `${x.toFixed(2)} ${y.toFixed(2)}`;

function arc(radius, from, to, partitions, gap) {
  const a = angle(from, partitions) + gap, b = angle(to, partitions) - gap;
  if (b - a > 2 * Math.PI - 0.01) return arc(radius, from, (from + to) / 2, partitions, gap) + arc(radius, (from + to) / 2, to, partitions, gap);
  if (b - a < 0.03) return `M${written(xy(radius, a))}L${written(xy(radius, Math.max(b, a + 0.0005)))}`;
  return `M${written(xy(radius, a))}A${radius} ${radius} 0 ${b - a > Math.PI ? 1 : 0} 1 ${written(xy(radius, b))}`;
}

/** One path for each value of `of(partition)`: value -> path data. */
function bands(partitions, radius, of, gap) {
  const paths = new Map();
  let from = 0;
  while (from < partitions) {
    const value = of(from);
    let to = from + 1;
    while (gap === 0 && to < partitions && of(to) === value) to += 1;
    if (value !== undefined) paths.set(value, (paths.get(value) ?? "") + arc(radius, from, to, partitions, gap));
    from = to;
  }
  return paths;
}

export class RingPicture {
  constructor(room, onPartition) {
    this.room = room;
    this.onPartition = onPartition;
    this.pinned = 0;
    this.shown = null;
    this.ring = null;
    this.lit = null;
  }

  /** A ring of another epoch: draw the bands anew. */
  draw(ring, cast) {
    this.ring = ring;
    this.cast = cast;
    this.moving = new Map();
    const q = ring.partitions;
    this.pinned = Math.min(this.pinned, q - 1);
    const gap = q <= 256 ? Math.min(0.004, 0.5 / q) : 0;
    const svg = s("svg", { viewBox: "0 0 460 460", class: "ring", role: "group", "aria-label": "The ring" });
    const zones = [...new Set(cast.members.map((member) => member.zone))].filter(Boolean).sort();
    if (zones.length) {
      const zoneOf = (p) => cast.byNumber.get(ring.owners[p])?.zone || undefined;
      for (const [zone, d] of bands(q, ZONES, zoneOf, 0)) {
        svg.append(s("path", { d, class: `zone z${zones.indexOf(zone) % 4}`, "stroke-width": 5 }, s("title", {}, `zone ${zone}`)));
      }
    }
    this.bandsRoom = s("g", { class: "bands" });
    for (const [number, d] of bands(q, TOKENS, (p) => ring.owners[p], gap)) {
      this.bandsRoom.append(s("path", { d, class: `cell ${cast.colour(number)}`, "data-node": number, "stroke-width": 26 }));
    }
    this.deep = Math.min(12, SLOTS_DEEP / ring.n);
    for (let slot = 0; slot < ring.n; slot += 1) {
      const radius = this.slotRadius(slot);
      for (const [number, d] of bands(q, radius, (p) => ring.slots[p][slot], 0)) {
        this.bandsRoom.append(s("path", { d, class: `cell slot ${cast.colour(number)}`, "data-node": number, "stroke-width": Math.max(1, this.deep - 2) }));
      }
    }
    this.movesRoom = s("g", { class: "moving" });
    this.flowsRoom = s("g", { class: "flows" });
    this.stationsRoom = s("g", { class: "stations" });
    this.wedge = s("path", { class: "wedge" });
    this.handle = s("g", { tabindex: 0, role: "slider", class: "handle", "aria-label": "Partition", "aria-valuemin": 0, "aria-valuemax": q - 1, "aria-describedby": "partition",
      on: { keydown: (event) => this.key(event), focus: () => this.show(this.pinned) } },
    s("circle", { cx: MID, cy: MID, r: ZONES + 6, class: "focus" }), this.wedge);
    this.middle = s("text", { x: MID, y: MID - 3, class: "middle" });
    this.middleMore = s("text", { x: MID, y: MID + 13, class: "middle small" });
    svg.append(this.bandsRoom, this.movesRoom, this.flowsRoom, this.stationsRoom, this.handle, this.middle, this.middleMore);
    svg.addEventListener("pointermove", (event) => { const p = this.at(event); this.show(p ?? this.pinned); svg.classList.toggle("over", p !== null); });
    svg.addEventListener("pointerleave", () => this.show(this.pinned));
    svg.addEventListener("click", (event) => { const p = this.at(event); if (p !== null) { this.pinned = p; this.show(p); } });
    this.svg = svg;
    this.room.replaceChildren(svg, this.legend(zones));
    this.place(cast, zones);
    this.light(this.lit);
    this.shown = null;
    this.show(this.pinned);
  }

  slotRadius(slot) { return SLOTS_FROM - this.deep / 2 - slot * this.deep; }

  legend(zones) {
    const words = [`Outer band: whose token it is. ${this.ring.n === 1 ? "Inner band" : `Inner ${this.ring.n} bands`}: who shall hold a slot.`];
    const list = h("ul", { class: "legend" }, this.cast.members.slice(0, 32).map((member) =>
      h("li", {}, h("span", { class: `swatch ${this.cast.colour(member.number)}` }), this.cast.short(member.number))));
    const zoneList = zones.length ? h("ul", { class: "legend", "aria-label": "Zones, outermost" }, zones.map((zone, at) => h("li", {}, h("span", { class: `swatch zone-swatch z${at % 4}` }), `zone ${zone}`))) : null;
    return h("div", { class: "under" }, h("p", { class: "quiet" }, words[0]), list, zoneList);
  }

  /** Stations: the nodes inside the ring, zone by zone; what moves flies between them. */
  place(cast, zones) {
    const n = cast.members.length;
    this.stationSize = Math.max(3, Math.min(15, 0.8 * Math.PI * STATIONS / n));
    this.stations = new Map(cast.members.map((member, at) => [member.number, xy(STATIONS, angle(at + 0.5, n))]));
    for (const member of cast.members) {
      const [x, y] = this.stations.get(member.number);
      const short = cast.short(member.number);
      const size = Math.min(11, 2.6 * this.stationSize / Math.max(2, short.length));
      this.stationsRoom.append(s("g", { "data-node": member.number, class: `station ${cast.colour(member.number)}` },
        s("title", {}, member.name),
        s("circle", { cx: x, cy: y, r: this.stationSize }),
        size >= 4 ? s("text", { x, y: y + size * 0.36, "font-size": size.toFixed(1) }, short) : null,
        s("path", { class: "cross", d: `M${x - this.stationSize} ${y - this.stationSize}l${2 * this.stationSize} ${2 * this.stationSize}m0 ${-2 * this.stationSize}l${-2 * this.stationSize} ${2 * this.stationSize}` })));
    }
    for (const zone of zones) {
      const at = cast.members.findIndex((member) => member.zone === zone);
      const many = cast.members.filter((member) => member.zone === zone).length;
      const radius = STATIONS + this.stationSize + 5;
      this.stationsRoom.append(s("path", { class: "zone-arc", d: arc(radius, at + 0.08, at + many - 0.08, n, 0) }));
      const [x, y] = xy(radius + 10, angle(at + many / 2, n));
      this.stationsRoom.append(s("text", { x, y: y + 3, class: "zone-name" }, zone));
    }
  }

  /** What changes from second to second: states, and what is on its way. */
  update(state) {
    this.state = state;
    const states = new Map(state.nodes.map((node) => [node.number, node.state]));
    for (const station of this.stationsRoom.querySelectorAll(".station")) {
      const now = states.get(Number(station.dataset.node)) ?? "down";
      mark(station, "data-state", now);
    }
    this.moving = movesByPartition(state.moves);
    this.moveCells(state);
    this.flows(state);
    if (this.shown !== null) this.describe(this.shown);
  }

  moveCells(state) {
    const q = this.ring.partitions, done = new Map();
    for (const transfer of state.transfers) {
      const part = transfer.bytes_total ? Math.min(1, transfer.bytes_done / transfer.bytes_total) : 0;
      if (transfer.state && transfer.state !== "waiting") done.set(`${transfer.partition} ${transfer.to}`, Math.max(0.08, part));
    }
    const cells = [];
    for (const [partition, source, target] of state.moves) {
      if (partition >= q) continue;
      const part = done.get(`${partition} ${this.cast.name(target)}`) ?? 0;
      cells.push({ partition, source, target, part });
    }
    const by = new Map();
    const add = (name, d) => by.set(name, (by.get(name) ?? "") + d);
    for (const { partition, source, target, part } of cells) {
      // A flag inside the bands, half a partition wide at least: source's colour, filled with the target's.
      const wide = Math.max(0, (q / 360 - 1) / 2);
      const from = partition - wide, to = partition + 1 + wide;
      const slot = Math.max(0, this.ring.slots[partition].indexOf(target));
      add(`held|${this.cast.colour(source)}|${slot}`, arc(this.slotRadius(slot), from, to, q, 0));
      add(`flag|${this.cast.colour(source)}`, arc(MOVES, from, to, q, 0));
      if (part) add(`part|${this.cast.colour(target)}`, arc(MOVES - 4.5, from, from + (to - from) * part, q, 0));
    }
    keyed(this.movesRoom, [...by], ([name]) => name, ([name]) => {
      const [kind, colour] = name.split("|");
      return s("path", { class: `cell ${kind} ${colour}`, "stroke-width": kind === "held" ? Math.max(1, this.deep - 2) : 5 });
    }, (path, [, d]) => mark(path, "d", d));
  }

  flows(state) {
    const by = new Map();
    for (const [, source, target] of state.moves) {
      const name = `${source} ${target}`;
      by.set(name, (by.get(name) ?? 0) + 1);
    }
    const listed = [...by].sort((a, b) => b[1] - a[1]).slice(0, 40);
    keyed(this.flowsRoom, listed, ([name]) => name, ([name]) => {
      const [source] = name.split(" ").map(Number);
      return s("g", { class: `flow ${this.cast.colour(source)}` },
        s("title", {}), s("path", { class: "thread" }), s("path", { class: "tip" }), s("text", {}));
    }, (group, [name, number]) => {
      const [source, target] = name.split(" ").map(Number);
      const a = this.stations.get(source), b = this.stations.get(target);
      if (!a || !b) { group.setAttribute("display", "none"); return; }
      // Bent to the right of its way, so that two that cross in both directions stay apart.
      const [dx, dy] = [b[0] - a[0], b[1] - a[1]], far = Math.hypot(dx, dy) || 1;
      const bend = [(a[0] + b[0]) / 2 - dy / far * 18, (a[1] + b[1]) / 2 + dx / far * 18];
      const cut = (from, to, by2) => { const d = Math.hypot(to[0] - from[0], to[1] - from[1]) || 1; return [to[0] - (to[0] - from[0]) / d * by2, to[1] - (to[1] - from[1]) / d * by2]; };
      const start = cut(bend, a, this.stationSize + 2), end = cut(bend, b, this.stationSize + 7);
      const [title, thread, tip, label] = group.children;
      say(title, `${this.cast.name(source)} to ${this.cast.name(target)}: ${several(number, "slot")}`);
      mark(thread, "d", `M${written(start)}Q${written(bend)} ${written(end)}`);
      mark(thread, "stroke-width", (1.5 + Math.log2(1 + number) / 2).toFixed(1));
      const turn = Math.atan2(end[1] - bend[1], end[0] - bend[0]);
      const tipAt = (r, more) => written([end[0] + r * Math.cos(turn + more), end[1] + r * Math.sin(turn + more)]);
      mark(tip, "d", `M${tipAt(5, 0)}L${tipAt(5, 2.3)}L${tipAt(5, -2.3)}Z`);
      mark(label, "x", ((start[0] + 2 * bend[0] + end[0]) / 4).toFixed(1));
      mark(label, "y", ((start[1] + 2 * bend[1] + end[1]) / 4 + 3).toFixed(1));
      say(label, String(number));
    });
    this.svg.classList.toggle("flowing", listed.length > 0);
  }

  at(event) {
    const box = this.svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * 460 - MID, y = (event.clientY - box.top) / box.height * 460 - MID;
    const radius = Math.hypot(x, y);
    if (radius < MOVES - 12 || radius > ZONES + 6) return null;
    const turn = (Math.atan2(y, x) + Math.PI / 2 + 2 * Math.PI) % (2 * Math.PI);
    return Math.min(this.ring.partitions - 1, Math.floor(turn / (2 * Math.PI) * this.ring.partitions));
  }

  key(event) {
    const q = this.ring.partitions, big = Math.max(1, Math.round(q / 16));
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: big, PageDown: -big };
    let to = this.pinned;
    if (event.key in steps) to = (this.pinned + steps[event.key] + q) % q;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = q - 1;
    else return;
    event.preventDefault();
    this.pinned = to;
    this.show(to);
  }

  pin(partition) { this.pinned = partition; this.show(partition); }

  show(partition) {
    if (partition === this.shown) return;
    this.shown = partition;
    const q = this.ring.partitions, wide = Math.max(0, (q / 360 - 1) / 2);
    const a = angle(partition - wide, q), b = angle(partition + 1 + wide, q);
    const inner = MOVES - 8, outer = TOKENS + 15;
    mark(this.wedge, "d", `M${written(xy(inner, a))}L${written(xy(outer, a))}A${outer} ${outer} 0 ${b - a > Math.PI ? 1 : 0} 1 ${written(xy(outer, b))}L${written(xy(inner, b))}A${inner} ${inner} 0 ${b - a > Math.PI ? 1 : 0} 0 ${written(xy(inner, a))}Z`);
    this.describe(partition);
    this.onPartition(partition);
  }

  describe(partition) {
    const held = holdersOf(this.ring, this.moving, partition).map((number) => this.cast.name(number));
    const moving = this.moving.get(partition) ?? [];
    const going = moving.map(([source, target]) => `, moving from ${this.cast.name(source)} to ${this.cast.name(target)}`).join("");
    mark(this.handle, "aria-valuenow", partition);
    mark(this.handle, "aria-valuetext", `Partition ${partition}: held by ${held.join(", ")}${going}`);
    const flowing = this.state?.moves.length;
    say(this.middle, flowing ? "" : `${this.ring.partitions} partitions`);
    say(this.middleMore, flowing ? "" : `N = ${this.ring.n}`);
  }

  /** Make one node's part of the ring stand out; null: none. */
  light(number) {
    this.lit = number;
    this.svg?.classList.toggle("lit", number !== null);
    for (const path of this.svg?.querySelectorAll("[data-node]") ?? []) {
      path.classList.toggle("on", Number(path.dataset.node) === number);
    }
  }
}

/** What is known of the partition that is pointed at: its preference list and its holders now. */
export function showPartition(room, partition, ring, cast, moving, transfers, told) {
  const node = (number) => h("span", { class: "node" }, h("span", { class: `swatch ${cast.colour(number)}` }), cast.short(number));
  const held = holdersOf(ring, moving, partition);
  const move = moving.get(partition) ?? [];
  const rows = [
    [h("dt", {}, "Token of"), h("dd", {}, node(ring.owners[partition]))],
    [h("dt", {}, "Held now by"), h("dd", {}, held.map(node))],
  ];
  for (const [source, target] of move) {
    const found = transfers.find((transfer) => transfer.partition === partition && transfer.to === cast.name(target));
    const how = found ? `${found.state}${found.bytes_total ? `, ${percent(100 * Math.min(1, found.bytes_done / found.bytes_total))} of ${bytes(found.bytes_total)}` : ""}${found.stalled ? `: ${found.stalled}` : ""}` : "waiting";
    rows.push([h("dt", {}, "Moves"), h("dd", {}, node(source), h("span", { class: "quiet" }, "→"), node(target), h("span", { class: "quiet" }, how))]);
  }
  if (told?.partition === partition) {
    rows.push([h("dt", {}, "Preference list"), h("dd", {}, h("ol", {}, told.preference.map((name, at) =>
      h("li", { class: at < ring.n ? "" : "quiet" }, node(cast.numberOf(name) ?? -1)))),
    told.preference_left_off ? h("span", { class: "quiet" }, `and ${several(told.preference_left_off, "more node", "more nodes")}`) : null)]);
    rows.push([h("dt", {}, "MD5 of its keys"), h("dd", { class: "mono" }, `${told.first.slice(0, 8)}… to ${told.last.slice(0, 8)}…`)]);
  }
  room.replaceChildren(h("h3", {}, `Partition ${partition}`), h("dl", {}, rows.flat()));
}

const PAGE = 32;

/** The same as the picture, in words: who has how much, and each partition. */
export class RingTable {
  constructor(details) {
    this.details = details;
    this.body = details.lastElementChild;
    this.from = 0;
    details.addEventListener("toggle", () => this.update());
  }
  set(ring, cast, moving) {
    const other = this.ring !== ring;
    Object.assign(this, { ring, cast, moving });
    if (other) this.from = 0;
    this.update();
  }
  update() {
    if (!this.details.open || !this.ring) return;
    const { ring, cast, moving } = this;
    const to = Math.min(ring.partitions, this.from + PAGE);
    const content = JSON.stringify([ring.id, this.from, [...moving]]);
    if (content === this.content) return;
    this.content = content;
    const step = (by, text) => h("button", { type: "button", class: "plain", id: `ring-${text.toLowerCase()}`, disabled: by < 0 ? this.from === 0 : to === ring.partitions,
      on: { click: () => { this.from = Math.max(0, this.from + by); this.update(); byId(`ring-${text.toLowerCase()}`)?.focus(); } } }, text);
    const rows = [];
    for (let p = this.from; p < to; p += 1) {
      rows.push(h("tr", {}, h("th", { scope: "row" }, String(p)), h("td", {}, cast.short(ring.owners[p])),
        h("td", {}, holdersOf(ring, moving, p).map((number) => cast.short(number)).join(", ")),
        h("td", {}, (moving.get(p) ?? []).map(([a, b]) => `${cast.short(a)} → ${cast.short(b)}`).join(", ") || "–")));
    }
    this.body.replaceChildren(
      h("table", {}, h("caption", {}, `Partitions ${this.from} to ${to - 1} of ${ring.partitions}`),
        h("thead", {}, h("tr", {}, ["Partition", "Token of", "Held by", "Moves"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)),
      h("div", { class: "buttons" }, step(-PAGE, "Previous"), step(PAGE, "Next")));
  }
}
