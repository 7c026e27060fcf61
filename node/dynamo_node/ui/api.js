// API: this page's questions to the node that serves it. Nothing else is ever asked.

export class Refused extends Error {
  /** The node answered, but with a problem: its status and its own words. */
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.status = status;
    this.type = problem.type ?? "";
  }
}

/** fetch that ends in time and turns problems (RFC 9457) into errors. */
export async function ask(path, { timeout = 4000, accept = [200], ...options } = {}) {
  const response = await fetch(path, { ...options, signal: AbortSignal.timeout(timeout) });
  if (accept.includes(response.status)) return response;
  let problem = {};
  try { problem = await response.json(); } catch { /* an answer of something in between */ }
  throw new Refused(response.status, problem);
}

export const state = async () => (await ask("ui/state", { cache: "no-store" })).json();
/** The browser keeps it and asks with its entity tag: 304 while the epoch is the same. */
export const ring = async () => (await ask("ui/ring", { cache: "no-cache", timeout: 15000 })).json();
export const partition = async (number) => (await ask(`ui/partition?number=${number}`)).json();

const names = { text: "key", percent: "key", hex: "key_hex", base64: "key_base64" };

export async function key(form, typed) {
  const value = form === "percent" ? typed : encodeURIComponent(form === "text" ? typed : typed.trim());
  return (await ask(`ui/key?${names[form]}=${value.replaceAll("&", "%26").replaceAll("#", "%23")}`, { cache: "no-store" })).json();
}

/** What a client's GET shows now: {siblings: [{dot, value, content_type}], context}. */
export async function siblings(percent) {
  const response = await ask(`kv/${percent}`, {
    cache: "no-store", timeout: 10000, accept: [200, 300], headers: { Accept: "application/json" },
  });
  if (response.status !== 300) return { siblings: [], context: "" };
  return response.json();
}

/** A normal put with the context of what was seen. */
export async function put(percent, context, value, contentType) {
  await ask(`kv/${percent}`, {
    method: "PUT", timeout: 10000, accept: [200, 204],
    headers: { "Content-Type": "application/vnd.dynamo.put+json" },
    body: JSON.stringify({ context, value, content_type: contentType }),
  });
}
