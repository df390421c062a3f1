/** Reads a unified diff of one file. */

export type DiffLine = { kind: "same" | "added" | "removed"; text: string; old: number | null; new: number | null };
export type Hunk = { heading: string; lines: DiffLine[] };

export function hunksOf(patch: string): Hunk[] {
  const hunks: Hunk[] = [];
  let hunk: Hunk | null = null;
  let before = 0;
  let after = 0;
  for (const line of patch.replace(/\n$/, "").split("\n")) {
    const head = /^@@ -(\d+)(?:,\d+)? \+(\d+)(?:,\d+)? @@ ?(.*)$/.exec(line);
    if (head) {
      before = Number(head[1]);
      after = Number(head[2]);
      hunk = { heading: head[3] ?? "", lines: [] };
      hunks.push(hunk);
      continue;
    }
    if (!hunk) continue;
    const text = line.slice(1).replace(/\r$/, "");
    if (line.startsWith("+")) hunk.lines.push({ kind: "added", text, old: null, new: after++ });
    else if (line.startsWith("-")) hunk.lines.push({ kind: "removed", text, old: before++, new: null });
    else if (line.startsWith(" ") || line === "") hunk.lines.push({ kind: "same", text, old: before++, new: after++ });
    // "\ No newline at end of file" is left out
  }
  return hunks;
}

export type SplitRow = { left: DiffLine | null; right: DiffLine | null };

/** The lines of a hunk side by side: what was removed beside what took its place. */
export function sideBySide(lines: readonly DiffLine[]): SplitRow[] {
  const rows: SplitRow[] = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at]!;
    if (line.kind === "same") {
      rows.push({ left: line, right: line });
      at += 1;
      continue;
    }
    const removed: DiffLine[] = [];
    const added: DiffLine[] = [];
    while (at < lines.length && lines[at]!.kind !== "same") {
      const one = lines[at]!;
      (one.kind === "removed" ? removed : added).push(one);
      at += 1;
    }
    for (let row = 0; row < Math.max(removed.length, added.length); row += 1) {
      rows.push({ left: removed[row] ?? null, right: added[row] ?? null });
    }
  }
  return rows;
}
