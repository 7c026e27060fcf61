// Format: figures as people read them.

const whole = new Intl.NumberFormat("en");

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  if (n < 1024) return `${n} B`;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    n /= 1024;
    if (n < 1024 || unit === "TiB") return `${n < 10 ? n.toFixed(1) : Math.round(n)} ${unit}`;
  }
}

export function milliseconds(n) {
  if (n === null || n === undefined) return "–";
  if (n < 1) return "< 1 ms";
  return n < 10 ? `${Math.round(n)} ms` : n < 1000 ? `${Math.round(n)} ms` : `${(n / 1000).toFixed(1)} s`;
}

export function duration(s) {
  if (s === null || s === undefined) return "–";
  if (s < 60) return `${Math.max(0, Math.round(s))} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

export const percent = (n) => (n === null || n === undefined ? "–" : `${n.toFixed(n < 10 ? 1 : 0)}%`);

export const several = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** What all names begin with, up to a dash, so that pictures can show the rest alone. */
export function commonStart(names) {
  if (names.length < 2) return "";
  let start = names[0];
  for (const name of names) while (!name.startsWith(start)) start = start.slice(0, -1);
  return start.slice(0, start.lastIndexOf("-") + 1);
}
