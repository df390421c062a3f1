/** From items to the rows of the list: finished turns fold to one line, with what matters of them left standing. */
import type { Item, Segment } from "./items";
import type { Timeline } from "./timeline";

export type Work = { tools: number; edits: number; commits: number; failed: number };

export type Row =
  | { kind: "item"; key: string; id: string }
  | { kind: "work"; key: string; segmentId: string; folded: boolean; work: Work };

type Cached = { version: number; folded: boolean; rows: Row[] };

/** Keeps the rows of segments that have not changed, so that a new item costs only its own segment. */
export class RowBuilder {
  private cache = new Map<string, Cached>();

  build(timeline: Timeline, folded: ReadonlySet<string>): Row[] {
    const cache = new Map<string, Cached>();
    const parts: Row[][] = [];
    for (const segment of timeline.segments) {
      const isFolded = segment.finished && folded.has(segment.id);
      const before = this.cache.get(segment.id);
      const rows =
        before && before.version === segment.version && before.folded === isFolded ? before.rows : rowsOf(timeline, segment, isFolded);
      cache.set(segment.id, { version: segment.version, folded: isFolded, rows });
      parts.push(rows);
    }
    this.cache = cache;
    return parts.flat();
  }

  forget(): void {
    this.cache.clear();
  }
}

function rowsOf(timeline: Timeline, segment: Segment, folded: boolean): Row[] {
  const items = segment.itemIds.map((id) => timeline.items.get(id)!);
  const footer = items.findIndex((item) => item.kind === "footer");
  if (footer < 0) return items.map(row);
  const lastText = items.findLastIndex((item, at) => at < footer && item.kind === "text");
  const keep = (item: Item, at: number) => at >= footer || at === lastText || staysVisible(item);
  const hidden = items.filter((item, at) => !keep(item, at));
  if (hidden.length < 2) return items.map(row);
  const work: Row = { kind: "work", key: `work:${segment.id}`, segmentId: segment.id, folded, work: summed(hidden) };
  const rows: Row[] = [];
  for (const [at, item] of items.entries()) {
    if (item === hidden[0]) rows.push(work);
    if (!folded || keep(item, at)) rows.push(row(item));
  }
  return rows;
}

function row(item: Item): Row {
  return { kind: "item", key: item.id, id: item.id };
}

/** What a person would miss in a folded turn. */
function staysVisible(item: Item): boolean {
  switch (item.kind) {
    case "prompt":
    case "pull_request":
    case "question":
    case "footer":
      return true;
    case "boot":
      return item.state === "failed";
    case "notice":
      return item.tone === "danger";
    default:
      return false;
  }
}

function summed(items: Item[]): Work {
  const work: Work = { tools: 0, edits: 0, commits: 0, failed: 0 };
  for (const item of items) {
    if (item.kind === "commit") work.commits += 1;
    if (item.kind !== "tool") continue;
    work.tools += 1;
    if (item.tool === "edit" || item.tool === "write" || item.tool === "patch") work.edits += 1;
    if (item.state === "failed") work.failed += 1;
  }
  return work;
}
