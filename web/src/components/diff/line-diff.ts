/** The difference of two texts by lines: for edits, which say what they replaced by what. */
import type { DiffLine } from "./patch";

/** Above this many cells the middle is shown as replaced as a whole. */
const MAX_CELLS = 4_000_000;

export function lineDiff(before: string, after: string): DiffLine[] {
  const old = before === "" ? [] : before.replace(/\n$/, "").split("\n");
  const now = after === "" ? [] : after.replace(/\n$/, "").split("\n");
  let head = 0;
  while (head < old.length && head < now.length && old[head] === now[head]) head += 1;
  let tail = 0;
  while (tail < old.length - head && tail < now.length - head && old[old.length - 1 - tail] === now[now.length - 1 - tail]) tail += 1;

  const lines: DiffLine[] = [];
  for (let at = 0; at < head; at += 1) lines.push({ kind: "same", text: old[at]!, old: at + 1, new: at + 1 });
  middle(old, now, head, tail, lines);
  for (let at = tail; at > 0; at -= 1) {
    lines.push({ kind: "same", text: old[old.length - at]!, old: old.length - at + 1, new: now.length - at + 1 });
  }
  return lines;
}

function middle(old: string[], now: string[], head: number, tail: number, lines: DiffLine[]): void {
  const rows = old.length - head - tail;
  const columns = now.length - head - tail;
  const removed = (at: number): DiffLine => ({ kind: "removed", text: old[head + at]!, old: head + at + 1, new: null });
  const added = (at: number): DiffLine => ({ kind: "added", text: now[head + at]!, old: null, new: head + at + 1 });
  if (rows * columns > MAX_CELLS) {
    for (let at = 0; at < rows; at += 1) lines.push(removed(at));
    for (let at = 0; at < columns; at += 1) lines.push(added(at));
    return;
  }
  // Length of the longest common subsequence from each cell on.
  const width = columns + 1;
  const common = new Uint32Array((rows + 1) * width);
  for (let row = rows - 1; row >= 0; row -= 1) {
    for (let column = columns - 1; column >= 0; column -= 1) {
      common[row * width + column] =
        old[head + row] === now[head + column]
          ? common[(row + 1) * width + column + 1]! + 1
          : Math.max(common[(row + 1) * width + column]!, common[row * width + column + 1]!);
    }
  }
  let row = 0;
  let column = 0;
  while (row < rows || column < columns) {
    if (row < rows && column < columns && old[head + row] === now[head + column]) {
      lines.push({ kind: "same", text: old[head + row]!, old: head + row + 1, new: head + column + 1 });
      row += 1;
      column += 1;
    } else if (row < rows && (column === columns || common[(row + 1) * width + column]! >= common[row * width + column + 1]!)) {
      lines.push(removed(row));
      row += 1;
    } else {
      lines.push(added(column));
      column += 1;
    }
  }
}
