// Moves: what is on its way between nodes; and background work in a line each.

import { h, keyed, mark, say } from "./dom.js";
import { bytes, count, duration, percent, several } from "./format.js";

const RUNNING = ["pulling", "sealing", "walking", "claiming"];

const WINDOW_MS = 15000;

export class Moves {
  constructor(room) {
    this.text = h("p", {});
    this.flows = h("ul", { class: "flows-list" });
    this.reasons = h("ul", { class: "reasons" });
    this.most = new Map();
    this.past = [];
    this.epoch = 0;
    room.replaceChildren(this.text, this.flows, this.reasons);
  }

  /** Bytes and slots a second, over what this page has seen lately. */
  pace(state) {
    const now = Date.now();
    const taken = state.nodes.reduce((sum, node) => sum + (node.figures?.taken_over?.bytes ?? 0), 0);
    this.past.push({ now, taken, open: state.moves_total });
    while (this.past.length > 2 && this.past[0].now < now - WINDOW_MS) this.past.shift();
    const first = this.past[0], seconds = (now - first.now) / 1000;
    // A node that restarts counts anew: that is no rate.
    return seconds < 1 ? { bytes: 0, slots: 0 } : { bytes: Math.max(0, taken - first.taken) / seconds, slots: Math.max(0, first.open - state.moves_total) / seconds };
  }

  update(state, cast) {
    if (state.ring?.epoch !== this.epoch) { this.epoch = state.ring?.epoch; this.most.clear(); this.past = []; }
    const pace = this.pace(state);
    const flows = new Map();
    for (const [source, target] of state.moves.map((move) => move.slice(1))) {
      const name = `${source} ${target}`;
      const flow = flows.get(name) ?? { name, source, target, slots: 0, part: 0, running: 0 };
      flow.slots += 1;
      flows.set(name, flow);
    }
    const reasons = new Map();
    let left = 0;
    for (const transfer of state.transfers) {
      left += Math.max(0, transfer.bytes_total - transfer.bytes_done);
      const flow = flows.get(`${cast.numberOf(transfer.from)} ${cast.numberOf(transfer.to)}`);
      if (flow && RUNNING.includes(transfer.state)) {
        flow.running += 1;
        flow.part += transfer.bytes_total ? Math.min(1, transfer.bytes_done / transfer.bytes_total) : 0;
      }
      if (transfer.stalled) {
        const why = `${transfer.to} waits: ${transfer.stalled}`;
        reasons.set(why, (reasons.get(why) ?? 0) + 1);
      }
    }
    const open = state.moves_total;
    if (!state.ring) say(this.text, "There is no ring yet.");
    else if (!open && !state.transfers_total) say(this.text, state.ring.settled ? `Nothing moves. Everybody holds ring ${state.ring.epoch} and what it gives them.` : `Nothing moves as far as is known here; not all nodes have said that they hold ring ${state.ring.epoch}.`);
    else {
      say(this.text, `${several(open, "slot")} on the way to ring ${state.ring.epoch}, ${left ? `about ${bytes(left)}${state.transfers_total > state.transfers.length ? " in those listed" : ""}, ` : ""}${bytes(Math.round(pace.bytes))}/s`
        + (pace.slots > 0 ? `, about ${duration(open / pace.slots)} to go.` : ".")
        + (open > state.moves.length ? ` The picture has the first ${count(state.moves.length)}.` : ""));
    }
    const node = (number) => [h("span", { class: `swatch ${cast.colour(number)}` }), cast.short(number)];
    keyed(this.flows, [...flows.values()].sort((a, b) => b.running - a.running || b.slots - a.slots).slice(0, 24), (flow) => flow.name,
      (flow) => h("li", {}, h("span", { class: "way" }, node(flow.source), h("span", { class: "quiet" }, "→"), node(flow.target)),
        h("progress", { max: 1, "aria-label": `${cast.name(flow.source)} to ${cast.name(flow.target)}` }), h("span", { class: "quiet" })),
      (item, flow) => {
        const [, bar, text] = item.children;
        const most = Math.max(flow.slots, this.most.get(flow.name) ?? 0);
        this.most.set(flow.name, most);
        mark(bar, "value", ((most - flow.slots + flow.part) / most).toFixed(3));
        say(text, `${count(flow.slots)} of ${several(most, "slot")} left${flow.running ? `, ${count(flow.running)} at work` : ""}`);
      });
    keyed(this.reasons, [...reasons].slice(0, 8), ([why]) => why, ([why]) => h("li", {}, h("span", {}, why), h("span", { class: "quiet" })), (item, [, many]) => say(item.lastElementChild, many > 1 ? ` (${several(many, "slot")})` : ""));
  }
}

export class Background {
  constructor(room) {
    this.rows = ["Recovering", "Anti-entropy", "Reaping"].map((name) => { const dd = h("dd", {}); room.append(h("dt", {}, name), dd); return dd; });
  }

  update(state, cast) {
    const [recovering, antientropy, reaping] = this.rows;
    const told = state.nodes.filter((node) => node.figures);
    const short = (node) => cast.short(node.number);
    const behind = told.filter((node) => node.figures.recovery?.partitions_left);
    say(recovering, behind.length ? behind.map((node) => {
      const facts = node.figures.recovery;
      return `${short(node)}: ${count(facts.partitions_left)} of ${several(facts.partitions, "partition")} left, ${several(facts.keys, "key")} and ${bytes(facts.bytes)} brought back${facts.waits_for ? `; waits for ${facts.waits_for.join("; ")}` : ""}`;
    }).join(" · ") : "No node is bringing a copy back.");
    const sum = (of) => told.reduce((total, node) => total + (of(node.figures) ?? 0), 0);
    const busy = told.filter((node) => node.figures.antientropy?.exchanging_with);
    say(antientropy, `${several(sum((f) => f.antientropy?.rounds), "comparison")} since the nodes started, ${several(sum((f) => f.antientropy?.repaired_keys), "key")} repaired`
      + (busy.length ? `; ${busy.map((node) => `${short(node)} exchanges with ${node.figures.antientropy.exchanging_with}`).join(", ")} now.` : "; nobody exchanges keys just now."));
    const blocked = told.filter((node) => node.figures.reaping?.blocked_partitions);
    say(reaping, `${several(sum((f) => f.reaping?.waiting), "copy of a tombstone", "copies of tombstones")} to reap, ${count(sum((f) => f.reaping?.reaped))} reaped since the nodes started`
      + (blocked.length ? `; held up in ${blocked.map((node) => `${several(node.figures.reaping.blocked_partitions, "partition")} by word of ${short(node)}`).join(", ")}.` : "."));
  }
}

export function figures(room, state) {
  const up = state.nodes.filter((node) => node.state === "up").length;
  const told = state.nodes.map((node) => node.figures).filter(Boolean);
  const hints = told.reduce((sum, f) => sum + Object.values(f.hints ?? {}).reduce((a, b) => a + b, 0), 0);
  const copies = state.nodes.reduce((sum, node) => sum + (node.keys ?? 0), 0);
  const ring = state.ring;
  const items = [
    ["Nodes up", `${up} of ${state.nodes.length}`, up === state.nodes.length ? "good" : "bad"],
    ["Ring", ring ? `epoch ${ring.epoch}` : "none", "", ring ? (ring.settled ? "settled" : "not settled") : ""],
    ["Quorum", ring ? `${ring.n} / ${state.quorum.r} / ${state.quorum.w}` : "–", "", `N / R / W, ${state.reconciliation === "lastWriteWins" ? "last write wins" : "siblings kept"}`],
    ["Copies of keys", count(copies)],
    ["Requests", `${count(told.reduce((sum, f) => sum + (f.operations_per_second ?? 0), 0))}/s`],
    ["Hints pending", count(hints), hints ? "bad" : ""],
    ["Off balance", ring ? percent(100 * ring.imbalance) : "–", "", ring?.zones_distinct ? `${ring.zones_distinct} zones a partition` : ""],
  ];
  keyed(room, items, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd", {}), h("dd", { class: "quiet" })), (item, [, text, mood, more]) => {
    say(item.children[1], text);
    say(item.children[2], more ?? "");
    mark(item, "class", mood || null);
  });
}
