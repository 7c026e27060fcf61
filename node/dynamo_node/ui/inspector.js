// Inspector: one key on all its replicas, its siblings, and the merge that a person makes.

import * as api from "./api.js";
import { byId, h, say } from "./dom.js";
import { bytes, count, milliseconds, several } from "./format.js";
import { history } from "./history.js";
import { asText, fromBase64, plain, toBase64, valueView } from "./values.js";

const letter = (at) => (at < 26 ? String.fromCharCode(65 + at) : `${letter(Math.floor(at / 26) - 1)}${letter(at % 26)}`);
const SIGNS = { has: ["●", "has it"], replaced: ["○", "has seen it replaced"], unseen: ["–", "never saw it"] };

export class Inspector {
  constructor(onPartition) {
    this.onPartition = onPartition;
    this.room = byId("looked");
    this.status = byId("look-status");
    this.number = 0;
    byId("look").addEventListener("submit", (event) => { event.preventDefault(); this.look(); });
    addEventListener("hashchange", () => this.fromAddress());
    byId("confirm-no").addEventListener("click", () => byId("confirm").close("no"));
    byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
    this.fromAddress();
  }

  /** #key=PERCENT in the page's address looks at that key. */
  fromAddress() {
    if (!location.hash.startsWith("#key=")) return;
    const typed = location.hash.slice(5);
    let text = null;
    try { text = decodeURIComponent(typed); } catch { /* bytes that are no text */ }
    byId("look-form").value = text === null ? "percent" : "text";
    byId("look-key").value = text ?? typed;
    this.look();
  }

  async look(after = "") {
    const form = byId("look-form").value, typed = byId("look-key").value;
    const number = this.number += 1;
    say(this.status, "Looking …");
    try {
      const found = await api.key(form, typed);
      if (number !== this.number) return;
      this.show(found);
      const dead = found.replicas.filter((one) => one.state === "unreachable").length;
      say(this.status, `${after}${several(found.versions.length, "version")} on ${several(found.replicas.filter((one) => one.state !== "absent" && one.state !== "unreachable").length, "replica")}${dead ? `; ${several(dead, "node")} can’t be reached` : ""}. Asked by ${found.answered_by}.`);
    } catch (error) {
      if (number !== this.number) return;
      this.room.replaceChildren();
      say(this.status, `${after}${error instanceof api.Refused ? error.message : error instanceof URIError ? "this text has half a letter in it, which UTF-8 can’t write" : "The node that serves this page doesn’t answer."}`);
    }
  }

  show(found) {
    const letters = found.versions.map((_, at) => letter(at));
    const name = found.key.text ?? `0x${found.key.hex}`;
    const shown = found.replicas.filter((one) => one.role !== "stand-in" || one.hints.length || one.state !== "absent");
    const idle = found.replicas.filter((one) => !shown.includes(one));
    const standing = found.versions.filter((one) => one.stands && !one.tombstone);
    const mergeable = standing.length > 1 && found.reconciliation === "siblings";
    const parts = [
      h("div", { class: "key-head" },
        h("h3", { class: "mono" }, plain(name)),
        h("p", { class: "quiet" }, "partition ", h("a", { href: "#ring", on: { click: () => this.onPartition(found.partition) } }, String(found.partition)),
          ` · MD5 ${found.position.slice(0, 8)}… · ${several(found.key.hex.length / 2, "byte")}`)),
      this.replicas(found, shown, letters),
      idle.length ? h("p", { class: "quiet" }, `Nothing at the stand-ins ${idle.map((one) => one.node).join(", ")}.`) : null,
      found.versions.length ? history(found.clock, found.versions, letters) : h("p", {}, "No replica that answered has a version of this key."),
      h("div", { class: "versions" }, found.versions.map((version, at) => this.version(found, version, letters[at], mergeable))),
      found.versions_left_off ? h("p", { class: "quiet" }, `${count(found.versions_left_off)} further versions are left off.`) : null,
      mergeable ? this.merge(found, standing, letters) : null];
    this.room.replaceChildren(...parts.filter((part) => part !== null));
  }

  replicas(found, shown, letters) {
    const columns = ["Replica", "Role", "Has", ...letters, "Clock", "Size", "Hints it keeps", "Answered in"];
    return h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "What each replica has" }, h("table", { class: "replicas" },
      h("thead", {}, h("tr", {}, columns.map((name, at) => h("th", { scope: "col", class: at > 2 && at < 3 + letters.length ? "letter" : undefined }, name)))),
      h("tbody", {}, shown.map((one) => {
        const away = one.state === "unreachable";
        return h("tr", { class: one.state }, h("th", { scope: "row" }, one.node), h("td", {}, one.role + (one.role === "holder" && !one.counts && !away ? ", not counted yet" : "")),
          h("td", {}, h("strong", {}, one.state), one.why ? h("span", { class: "quiet" }, ` ${one.why}`) : null),
          one.seen.map((seen) => {
            const [sign, words] = SIGNS[seen] ?? ["?", "not known"];
            return h("td", { class: `seen ${seen ?? "unknown"}`, title: words }, h("span", { "aria-hidden": "true" }, sign), h("span", { class: "unseen-label" }, words));
          }),
          h("td", {}, away ? "–" : several(one.clock_entries, "entry", "entries")), h("td", {}, away ? "–" : bytes(one.bytes)),
          h("td", {}, one.hints.map((hint) => `for ${hint.for}, ${bytes(hint.bytes)}`).join("; ") || "–"), h("td", {}, away ? "–" : milliseconds(one.milliseconds)));
      }))));
  }

  version(found, version, name, mergeable) {
    const value = version.value === null ? null : fromBase64(version.value);
    const cut = value !== null && value.length < version.bytes;
    const when = new Date(version.written_ms);
    return h("article", { class: `version${version.stands ? "" : " replaced"}`, "aria-label": `Version ${name}` },
      h("header", {}, h("span", { class: "badge" }, name), h("div", {}, h("strong", {}, version.tombstone ? "tombstone" : version.stands ? "stands" : "replaced"),
        h("span", { class: "quiet" }, ` written at ${version.node}, `, h("time", { datetime: Number.isNaN(when.getTime()) ? undefined : when.toISOString() }, Number.isNaN(when.getTime()) ? "?" : when.toLocaleString())))),
      h("p", { class: "quiet mono dot" }, version.dot),
      value === null ? h("p", { class: "quiet" }, "The key was deleted here.") : [
        h("p", { class: "quiet" }, `${plain(version.content_type) || "no type"} · ${bytes(version.bytes)}${cut ? `, of which the first ${bytes(value.length)} are shown` : ""}`),
        valueView(value, cut, name)],
      mergeable && version.stands && value !== null ? h("button", { type: "button", class: "plain", on: { click: () => this.write(found, { keep: version.dot, name }) } }, `Keep ${name} alone`) : null);
  }

  merge(found, standing, letters) {
    const texts = standing.map((version) => {
      const value = fromBase64(version.value);
      return value.length < version.bytes ? null : asText(value, false);
    });
    const at = texts.findIndex((text) => text !== null);
    const area = h("textarea", { id: "merge-value", rows: 6, spellcheck: "false" });
    area.value = at < 0 ? "" : texts[at];
    const type = h("input", { id: "merge-type", value: plain(standing[Math.max(0, at)].content_type), spellcheck: "false" });
    const names = standing.map((version) => letters[found.versions.indexOf(version)]);
    const starts = h("div", { class: "tabs", role: "group", "aria-label": "Begin with" }, texts.map((text, i) => (text === null ? null
      : h("button", { type: "button", class: "plain tab", on: { click: () => { area.value = text; type.value = plain(standing[i].content_type); area.focus(); } } }, `Begin with ${names[i]}`))));
    return h("form", { class: "merge", on: { submit: (event) => { event.preventDefault(); this.write(found, { text: area.value, type: type.value }); } } },
      h("h3", {}, `Merge ${names.join(", ")}`),
      h("p", { class: "quiet" }, "Write one value in place of them all, as a client would: with the context of what is shown here. What somebody writes meanwhile stays beside it."),
      starts,
      h("div", { class: "field" }, h("label", { for: "merge-value" }, "Merged value"), area),
      h("div", { class: "row" }, h("div", { class: "field grow" }, h("label", { for: "merge-type" }, "Content type"), type), h("button", { type: "submit" }, "Write the merge …")));
  }

  /** Ask, read as a client does, check that it is what was shown, and put with its context. */
  async write(found, { keep, name, text, type }) {
    const standing = found.versions.filter((one) => one.stands && !one.tombstone);
    const kept = keep ? found.versions.find((one) => one.dot === keep) : null;
    const what = keep ? `version ${name}` : `${several(new TextEncoder().encode(text).length, "byte")}`;
    const preview = keep ? asText(fromBase64(kept.value), kept.bytes > fromBase64(kept.value).length) ?? "(bytes that are no text)" : text;
    if (!await confirmed(`${several(standing.length, "sibling")} of ${plain(found.key.text ?? `0x${found.key.hex}`)} will be replaced by ${what}.`, plain(preview.slice(0, 600)) + (preview.length > 600 ? " …" : ""))) return;
    say(this.status, "Writing …");
    try {
      const now = await api.siblings(found.key.percent);
      const known = new Set(standing.map((one) => one.dot));
      if (!now.siblings.length || now.siblings.some((one) => !known.has(one.dot))) {
        await this.look("Nothing was written, because the key has changed since you looked. ");
        return;
      }
      const mine = keep ? now.siblings.find((one) => one.dot === keep) : null;
      if (keep && !mine) { await this.look("Nothing was written: that version isn’t shown to clients any more. "); return; }
      await api.put(found.key.percent, now.context, mine ? mine.value : toBase64(new TextEncoder().encode(text)), mine ? mine.content_type : type);
      await this.look("Written. ");
    } catch (error) {
      say(this.status, error instanceof api.Refused ? `Not written: ${error.message}` : "The node that serves this page doesn’t answer; the write may or may not exist.");
    }
  }
}

function confirmed(text, value) {
  const dialog = byId("confirm");
  say(byId("confirm-text"), text);
  say(byId("confirm-value"), value);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
