// Holders: who has a slot of a partition now. The ring says who shall hold it; what is on
// its way (state's `moves`) is still where it was.

/** partition -> [[source, target], ...] of the slots on their way. */
export function movesByPartition(moves) {
  const found = new Map();
  for (const [partition, source, target] of moves) {
    if (!found.has(partition)) found.set(partition, []);
    found.get(partition).push([source, target]);
  }
  return found;
}

export function holdersOf(ring, moving, partition) {
  const held = [...ring.slots[partition]];
  for (const [source, target] of moving.get(partition) ?? []) {
    const at = held.indexOf(target);
    if (at >= 0) held[at] = source;
  }
  return held;
}

/** Looks and names of the members: a colour of eight (filled, then hollow), a short name, both
 *  stable by number. */
export class Cast {
  constructor(members, start) {
    const sorted = [...members].sort((a, b) => a.zone.localeCompare(b.zone) || a.number - b.number);
    this.members = sorted;
    this.byNumber = new Map(members.map((member) => [member.number, member]));
    const byNumber = [...members].sort((a, b) => a.number - b.number);
    this.colours = new Map(byNumber.map((member) => [member.number, `n${(member.number - 1) % 8}${(member.number - 1) % 16 > 7 ? " again" : ""}`]));
    this.start = start;
  }
  name(number) { return this.byNumber.get(number)?.name ?? `node ${number}`; }
  short(number) { return this.name(number).slice(this.start.length) || this.name(number); }
  colour(number) { return this.colours.get(number) ?? "n6"; }
  numberOf(name) { return this.members.find((member) => member.name === name)?.number; }
}
