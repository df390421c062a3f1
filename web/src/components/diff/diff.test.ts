import { describe, expect, it } from "vitest";
import { lineDiff } from "./line-diff";
import { hunksOf, sideBySide } from "./patch";

const PATCH = `diff --git a/x.py b/x.py
index 1..2 100644
--- a/x.py
+++ b/x.py
@@ -1,4 +1,4 @@ def total():
 a
-b
+B
 c
@@ -10 +10,2 @@
 z
+y
\\ No newline at end of file
`;

const drawn = (lines: { kind: string; text: string }[]) => lines.map(({ kind, text }) => `${kind === "added" ? "+" : kind === "removed" ? "-" : " "}${text}`);

describe("hunksOf", () => {
  it("reads hunks with their line numbers", () => {
    const hunks = hunksOf(PATCH);
    expect(hunks.map((one) => one.heading)).toEqual(["def total():", ""]);
    expect(drawn(hunks[0]!.lines)).toEqual([" a", "-b", "+B", " c"]);
    expect(hunks[0]!.lines[3]).toEqual({ kind: "same", text: "c", old: 3, new: 3 });
    expect(hunks[1]!.lines.at(-1)).toEqual({ kind: "added", text: "y", old: null, new: 11 });
  });
  it("takes removed lines that look like headers for what they are", () => {
    expect(drawn(hunksOf("@@ -1,2 +1 @@\n--- a\n b\n")[0]!.lines)).toEqual(["--- a", " b"]);
  });
});

describe("sideBySide", () => {
  it("puts what was removed beside what came", () => {
    const rows = sideBySide(hunksOf(PATCH)[0]!.lines);
    expect(rows.map(({ left, right }) => [left?.text ?? null, right?.text ?? null])).toEqual([
      ["a", "a"],
      ["b", "B"],
      ["c", "c"],
    ]);
  });
});

describe("lineDiff", () => {
  it("finds what changed", () => {
    expect(drawn(lineDiff("a\nb\nc\nd\n", "a\nB\nc\nx\nd\n"))).toEqual([" a", "-b", "+B", " c", "+x", " d"]);
    expect(drawn(lineDiff("", "a\nb"))).toEqual(["+a", "+b"]);
    expect(drawn(lineDiff("a\n", ""))).toEqual(["-a"]);
    expect(lineDiff("", "")).toEqual([]);
  });
  it("stays quick on what is huge", () => {
    const before = Array.from({ length: 5_000 }, (_, at) => `a${at}`).join("\n");
    const after = Array.from({ length: 5_000 }, (_, at) => `b${at}`).join("\n");
    const began = performance.now();
    expect(lineDiff(before, after)).toHaveLength(10_000);
    expect(performance.now() - began).toBeLessThan(500);
  });
});
