// Console: the page's life. Asks the node that serves it for its state as long as somebody
// looks, fetches the ring when its epoch is another one, and says when nobody answers.

import * as api from "./api.js";
import { byId, h, say } from "./dom.js";
import { commonStart, duration } from "./format.js";
import { Cast, movesByPartition } from "./holders.js";
import { Inspector } from "./inspector.js";
import { Background, Moves, figures } from "./moves.js";
import { NodeTable } from "./nodes.js";
import { RingPicture, RingTable, showPartition } from "./ring.js";

const EVERY_MS = 1500;
const POINTED_MS = 120;

const picture = new RingPicture(byId("ring-picture"), pointed);
const ringTable = new RingTable(byId("ring-table"));
const nodeTable = new NodeTable(byId("node-table"), (number) => picture.light(number));
const moves = new Moves(byId("move-list"));
const background = new Background(byId("background-lines"));
const inspector = new Inspector((partition) => picture.ring && picture.pin(partition));

let state = null, ring = null, cast = null, told = null, lastAnswer = 0, failures = 0, timer = 0, pointing = 0, asking = false, said = "";

async function round() {
  clearTimeout(timer);
  if (document.hidden || asking) return;
  asking = true;
  try {
    const found = await api.state();
    if (found.ring && found.ring.id !== ring?.id) ring = null;
    if (found.ring && !ring) await newRing(found);
    state = found;
    lastAnswer = Date.now();
    failures = 0;
    show();
  } catch (error) {
    failures += 1;
    trouble(error);
  }
  asking = false;
  timer = setTimeout(round, EVERY_MS);
}

async function newRing(found) {
  const fetched = await api.ring();
  cast = new Cast(fetched.members, commonStart(fetched.members.map((member) => member.name)));
  ring = fetched;
  told = null;
  picture.state = found;
  picture.draw(ring, cast);
}

function show() {
  byId("alarm").hidden = true;
  document.body.classList.remove("stale");
  say(byId("cluster"), state.name);
  document.title = `${state.name} · Dynamo console`;
  say(byId("served"), `served by ${state.node}`);
  say(byId("viewer"), state.node);
  announce();
  figures(byId("figures"), state);
  if (!ring) { say(byId("ring-picture"), "This node has no ring yet."); return; }
  const moving = movesByPartition(state.moves);
  nodeTable.update(state, cast);
  picture.update(state);
  moves.update(state, cast);
  background.update(state, cast);
  ringTable.set(ring, cast, moving);
  partition();
}

/** The state in one sentence, which is read aloud when it changes. */
function announce() {
  const away = state.nodes.filter((node) => !["up", "recovering", "joining", "leaving"].includes(node.state));
  const parts = [!state.nodes.length ? `${state.node} waits for its first ring` : away.length ? away.map((node) => `${node.name} is ${node.state}`).join(", ") : `All ${state.nodes.length} nodes answer`];
  if (state.ring && state.moves.length) parts.push("data is on the move");
  else if (state.ring && !away.length) parts.push(state.ring.settled ? "nothing moves" : "not all have said that they are settled");
  const text = `${parts.join("; ")}.`;
  if (text !== said) say(byId("summary"), said = text);
  byId("summary").classList.toggle("bad", away.length > 0);
}

function partition() {
  if (ring && picture.shown !== null) showPartition(byId("partition"), picture.shown, ring, cast, movesByPartition(state?.moves ?? []), state?.transfers ?? [], told);
}

function pointed(number) {
  partition();
  clearTimeout(pointing);
  if (told?.partition === number) return;
  pointing = setTimeout(async () => {
    try {
      const found = await api.partition(number);
      if (picture.shown === number) { told = found; partition(); }
    } catch { /* the next round tells that nobody answers */ }
  }, POINTED_MS);
}

/** Whoever serves this page doesn't: say so, and where others may be. */
function trouble(error) {
  const alarm = byId("alarm");
  document.body.classList.add("stale");
  const who = state?.node ?? "The node that serves this page";
  const why = error instanceof api.Refused ? `says: ${error.message}` : "doesn’t answer";
  const since = lastAnswer ? ` What you see is from ${new Date(lastAnswer).toLocaleTimeString()}.` : "";
  const text = `${who} ${why}.${since}`;
  if (alarm.dataset.text !== text) {
    alarm.dataset.text = text;
    const links = others();
    alarm.replaceChildren(h("strong", {}, text), " It is asked again all the time.",
      links.length ? h("span", {}, " Other nodes: ", links.flatMap(([name, url], at) => [at ? ", " : "", h("a", { href: url }, name)]), ".") : "");
  }
  alarm.hidden = false;
  say(byId("served"), lastAnswer ? `last heard of ${duration((Date.now() - lastAnswer) / 1000)} ago` : "no answer yet");
}

/** Pages of other nodes, where their addresses are of the kind that brought this page here. */
function others() {
  if (!state) return [];
  const loopback = (host) => ["localhost", "127.0.0.1", "[::1]"].includes(host);
  const mine = state.nodes.find((node) => node.name === state.node);
  if (!mine) return [];
  const here = new URL(mine.http);
  const alike = here.port === location.port && (here.hostname === location.hostname || (loopback(here.hostname) && loopback(location.hostname)));
  if (!alike) return [];
  return state.nodes.filter((node) => node !== mine && node.state !== "down").slice(0, 12).map((node) => {
    const url = new URL("/ui", node.http);
    if (loopback(url.hostname)) url.hostname = location.hostname;
    return [node.name, url.href];
  });
}

document.addEventListener("visibilitychange", round);
addEventListener("online", round);
round();
export { inspector };
