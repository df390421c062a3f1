import { describe, expect, it } from "vitest";
import { pieces, plain } from "./ansi";

describe("terminal text", () => {
  it("turns colours into pieces", () => {
    expect(pieces("a \x1b[31mred\x1b[0m b")).toEqual([
      { text: "a ", tone: "" },
      { text: "red", tone: "text-bad" },
      { text: " b", tone: "" },
    ]);
    expect(pieces("\x1b[1;32mok\x1b[m")[0]).toEqual({ text: "ok", tone: "text-good font-semibold" });
    expect(pieces("\x1b[38;5;196mx\x1b[38;2;1;2;3my")).toEqual([
      { text: "x", tone: "" },
      { text: "y", tone: "" },
    ]);
  });
  it("drops whatever else a terminal would obey", () => {
    expect(plain("\x1b]0;title\x07a\x1b[2Jb\x1b[?25lc\x1b]8;;javascript:x\x1b\\d\x08\x00")).toBe("abcd");
    expect(plain("\x1b")).toBe("");
  });
  it("shows what was written last on a line", () => {
    expect(plain("10%\r50%\r100%\nnext\r\n")).toBe("100%\nnext\n");
  });
  it("is quick on a lot", () => {
    const began = performance.now();
    pieces("\x1b[32mok\x1b[0m line of output\n".repeat(3_000));
    plain("\x1b]".repeat(20_000));
    expect(performance.now() - began).toBeLessThan(500);
  });
});
