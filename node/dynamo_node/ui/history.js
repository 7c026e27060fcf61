// History: what the clock tells of a key's writes. A lane for each actor (one life of one
// node); small dots are writes that somebody replaced having seen them, letters are the
// versions that are there. What stands has nothing after it: those are concurrent.

import { h, s } from "./dom.js";

const STEP = 26, LANE = 34, LEFT = 150, SHOWN = 12;

export function history(clock, versions, letters) {
  const rows = clock.lanes.map((lane) => {
    const mine = versions.map((version, at) => ({ version, letter: letters[at], n: Number(version.dot.split(":")[1]) })).filter(({ version }) => version.dot.startsWith(`${lane.actor}:`));
    const numbers = new Set([...mine.map((one) => one.n), ...lane.dots]);
    for (let n = Math.max(1, lane.upto - SHOWN + 1); n <= lane.upto; n += 1) numbers.add(n);
    return { lane, mine, numbers: [...numbers].sort((a, b) => a - b).slice(-2 * SHOWN) };
  }).filter((row) => row.numbers.length);
  const wide = LEFT + STEP * (1 + Math.max(1, ...rows.map((row) => row.numbers.length + (row.numbers[0] > 1 ? 1 : 0)))) + 12;
  const svg = s("svg", { viewBox: `0 0 ${wide} ${rows.length * LANE + 6}`, width: wide, height: rows.length * LANE + 6, class: "history", role: "img", "aria-label": told(versions, letters) });
  rows.forEach(({ lane, mine, numbers }, at) => {
    const y = at * LANE + LANE / 2 + 3;
    svg.append(s("text", { x: 0, y: y - 1, class: "who" }, lane.node), s("text", { x: 0, y: y + 11, class: "life" }, `life ${lane.actor.split(".")[1].slice(0, 6)}, birth ${lane.actor.split(".")[2]}`));
    let x = LEFT;
    if (numbers[0] > 1) { svg.append(s("text", { x, y: y + 4, class: "skipped" }, "…")); x += STEP; }
    svg.append(s("path", { d: `M${LEFT - 8} ${y}H${x + STEP * (numbers.length - 1)}`, class: "lane" }));
    for (const n of numbers) {
      const found = mine.filter((one) => one.n === n);
      if (found.length) {
        const stands = found.some((one) => one.version.stands);
        svg.append(s("circle", { cx: x, cy: y, r: 11, class: stands ? "stands" : "replaced" }, s("title", {}, found.map((one) => one.version.dot).join(", "))),
          s("text", { x, y: y + 4, class: stands ? "letter" : "letter faded" }, found.map((one) => one.letter).join("")));
      } else svg.append(s("circle", { cx: x, cy: y, r: 3, class: "past" }, s("title", {}, `${lane.actor}:${n}, replaced`)));
      x += STEP;
    }
  });
  return h("figure", { class: "history-room" }, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "History of writes" }, svg), h("figcaption", {}, told(versions, letters) + (clock.left_off ? ` ${clock.left_off} further lives are left off.` : "")));
}

function told(versions, letters) {
  const standing = versions.map((version, at) => [version, letters[at]]).filter(([version]) => version.stands).map(([, letter]) => letter);
  const gone = versions.length - standing.length;
  const list = standing.length > 2 ? `${standing.slice(0, -1).join(", ")} and ${standing.at(-1)}` : standing.join(" and ");
  const first = standing.length > 1 ? `${list} are concurrent: none of their writers had seen another one.` : standing.length ? `${list} stands alone: it replaced all that was before.` : "No version stands.";
  return first + (gone ? ` ${gone === 1 ? "One version is" : `${gone} versions are`} replaced already, and still there on some replica.` : "");
}
