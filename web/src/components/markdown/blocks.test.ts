import { describe, expect, it } from "vitest";
import { blocksOf } from "./blocks";

describe("blocksOf", () => {
  it("cuts between paragraphs and headings", () => {
    expect(blocksOf("One.\n\n# Two\n\nThree\nmore")).toEqual(["One.\n\n", "# Two\n\n", "Three\nmore"]);
  });
  it("leaves fences whole, also unfinished ones and ones within fences", () => {
    expect(blocksOf("a\n\n```py\nx\n\ny\n```\n\nb")).toEqual(["a\n\n", "```py\nx\n\ny\n```\n\n", "b"]);
    expect(blocksOf("````\n```\n\na\n\n```\n````\n\nb")).toHaveLength(2);
    expect(blocksOf("```\na\n\nb")).toHaveLength(1);
  });
  it("keeps lists, quotes and what belongs to them together", () => {
    expect(blocksOf("- a\n\n- b\n\n  more of b\n\n1. c")).toHaveLength(1);
    expect(blocksOf("> a\n\n> b")).toHaveLength(1);
  });
  it("loses nothing", () => {
    const text = "# T\n\nline\n\n```\ncode\n\n```\n\n- a\n- b\n\nend\n\n";
    expect(blocksOf(text).join("")).toBe(text);
    expect(blocksOf("")).toEqual([]);
  });
  it("leaves earlier pieces as they were while a text grows", () => {
    const whole = "One.\n\nTwo **bold**.\n\n```js\nlet a = 1\n\nlet b\n```\n\nThree";
    for (let length = 1; length < whole.length; length += 1) {
      const now = blocksOf(whole.slice(0, length));
      const later = blocksOf(whole);
      for (const [at, block] of now.slice(0, -1).entries()) expect(later[at]).toBe(block);
    }
  });
});
