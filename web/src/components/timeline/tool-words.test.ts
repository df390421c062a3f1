import { describe, expect, it } from "vitest";
import { shellOutput, toolWords, workspacePath } from "./tool-words";

const told = (tool: string, input: Record<string, unknown>, state: "running" | "completed" = "completed") => {
  const words = toolWords({ tool, title: "", input, state });
  return `${words.kind}: ${[words.verb, words.about].filter(Boolean).join(" ")}`;
};

describe("what a tool call is about", () => {
  it("is told in a line", () => {
    expect(told("bash", { command: "npm test\nnpm run lint" })).toBe("shell: Ran npm test …");
    expect(told("bash", { command: "npm test", description: "Run the tests" }, "running")).toBe("shell: Run the tests");
    expect(told("read", { filePath: "/workspace/repo/a/b.py", offset: 10, limit: 5 })).toBe("read: Read a/b.py:10–15");
    expect(told("edit", { filePath: "/workspace/other/a.py" }, "running")).toBe("edit: Editing other/a.py");
    expect(told("grep", { pattern: "TODO", path: "/workspace/repo/src" })).toBe("search: Searched TODO in src");
    expect(told("todowrite", { todos: [{ status: "completed" }, { status: "pending" }] })).toBe("todo: Planned 1 of 2 done");
    expect(told("openinspect_create_pull_request", { title: "Mend it" })).toBe("pull_request: Opened a pull request Mend it");
  });
  it("copes with tools and inputs that it does not know", () => {
    expect(told("weather_now", { place: "Lisbon\nand more" })).toBe("other: weather_now Lisbon …");
    expect(told("bash", { command: 7 })).toBe("shell: Ran");
    expect(told("todowrite", { todos: "x" })).toBe("todo: Planned");
  });
  it("shows what the agent says about a command without its marks", () => {
    expect(shellOutput("(no output)\n\n<shell_metadata>\nUser aborted the command\n</shell_metadata>")).toBe("(no output)\n\nUser aborted the command\n");
    expect(shellOutput("<b>as it is</b>")).toBe("<b>as it is</b>");
  });
  it("shows paths as seen from the repository", () => {
    expect(workspacePath("/workspace/repo/x.py")).toBe("x.py");
    expect(workspacePath("/etc/hosts")).toBe("/etc/hosts");
    expect(workspacePath("/workspace/repo/")).toBe("/workspace/repo/");
  });
});
