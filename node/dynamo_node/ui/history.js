// History: what the clock tells of a key's writes. A lane for each actor (one life of one
// node) with its writes in their order; small dots were replaced by somebody who had seen
// them. Each version that is still there branches off to the right: what ends side by side
// there is concurrent, whichever node took it.

import { h, s } from "./dom.js";

const STEP = 22, ROW = 36, LEFT = 150, SHOWN = 10, BRANCH = 110;

export function history(clock, versions, letters) {
  const rows = clock.lanes.map((lane) => {
    const mine = versions.map((version, at) => ({ at, n: Number(version.dot.split(":")[1]) })).filter(({ at }) => versions[at].dot.startsWith(`${lane.actor}:`));
    const numbers = new Set([...mine.map((one) => one.n), ...lane.dots]);
    for (let n = Math.max(1, lane.upto - SHOWN + 1); n <= lane.upto; n += 1) numbers.add(n);
    return { lane, mine, numbers: [...numbers].sort((a, b) => a - b).slice(-2 * SHOWN) };
  }).filter((row) => row.numbers.length);
  const now = LEFT + STEP * Math.max(...rows.map((row) => row.numbers.length + (row.numbers[0] > 1 ? 1 : 0)), 1) + BRANCH;
  const high = ROW * Math.max(rows.length, versions.length) + 6;
  const middle = (at, of) => high / 2 + (at - (of - 1) / 2) * ROW;
  const svg = s("svg", { viewBox: `0 0 ${now + 20} ${high}`, width: now + 20, height: high, class: "history", role: "img", "aria-label": told(versions, letters) });
  const branches = s("g", {}), dots = s("g", {});
  rows.forEach(({ lane, mine, numbers }, at) => {
    const y = middle(at, rows.length);
    svg.append(s("text", { x: 0, y: y - 1, class: "who" }, lane.node), s("text", { x: 0, y: y + 11, class: "life" }, `life ${lane.actor.split(".")[1].slice(0, 6)}, birth ${lane.actor.split(".")[2]}`));
    let x = LEFT;
    if (numbers[0] > 1) { svg.append(s("text", { x: x - 4, y: y + 4, class: "skipped" }, "…")); x += STEP; }
    svg.append(s("path", { d: `M${x} ${y}H${x + STEP * (numbers.length - 1)}`, class: "lane" }));
    for (const n of numbers) {
      const found = mine.filter((one) => one.n === n);
      for (const { at: version } of found) {
        const to = middle(version, versions.length), stands = versions[version].stands;
        branches.append(s("path", { d: `M${x} ${y}C${x + 60} ${y} ${now - 70} ${to} ${now - 11} ${to}`, class: stands ? "branch" : "branch gone" }));
      }
      dots.append(s("circle", { cx: x, cy: y, r: found.length ? 4.5 : 3, class: found.length ? "there" : "past" }, s("title", {}, `${lane.actor}:${n}${found.length ? "" : ", replaced"}`)));
      x += STEP;
    }
  });
  versions.forEach((version, at) => {
    const y = middle(at, versions.length);
    dots.append(s("circle", { cx: now, cy: y, r: 12, class: version.stands ? "stands" : "replaced" }), s("text", { x: now, y: y + 4.5, class: version.stands ? "letter" : "letter faded" }, letters[at]));
  });
  svg.append(branches, dots);
  return h("figure", { class: "history-room" }, h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "History of writes" }, svg), h("figcaption", {}, told(versions, letters) + (clock.left_off ? ` ${clock.left_off} further lives are left off.` : "")));
}

function told(versions, letters) {
  const standing = versions.map((version, at) => [version, letters[at]]).filter(([version]) => version.stands).map(([, letter]) => letter);
  const gone = versions.length - standing.length;
  const list = standing.length > 2 ? `${standing.slice(0, -1).join(", ")} and ${standing.at(-1)}` : standing.join(" and ");
  const first = standing.length > 1 ? `${list} are concurrent: ${standing.length > 2 ? "none of their writers had seen another one" : "neither writer had seen the other"}.` : standing.length ? `${list} stands alone: its writer had seen all that was before.` : "No version stands.";
  return first + (gone ? ` ${gone === 1 ? "One version is" : `${gone} versions are`} replaced already, and still there on some replica.` : "");
}
