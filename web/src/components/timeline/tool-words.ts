/** What a tool call is about, in one line: a verb and what it was done to. Pure. */
import type { ToolItem } from "@/session/items";

export type ToolKind = "shell" | "edit" | "write" | "read" | "search" | "web" | "todo" | "task" | "pull_request" | "other";

export type ToolWords = { kind: ToolKind; verb: string; about: string; mono: boolean };

const text = (value: unknown): string => (typeof value === "string" ? value : "");

export function toolWords(item: Pick<ToolItem, "tool" | "title" | "input" | "state">): ToolWords {
  const { input, title } = item;
  const going = item.state === "running";
  const path = workspacePath(text(input.filePath) || text(input.path) || text(input.file_path));
  switch (item.tool.toLowerCase()) {
    case "bash":
    case "shell":
      return text(input.description)
        ? { kind: "shell", verb: "", about: text(input.description), mono: false }
        : { kind: "shell", verb: going ? "Running" : "Ran", about: firstLine(text(input.command)) || title, mono: true };
    case "edit":
    case "multiedit":
    case "str_replace":
      return { kind: "edit", verb: going ? "Editing" : "Edited", about: path || title, mono: true };
    case "write":
      return { kind: "write", verb: going ? "Writing" : "Wrote", about: path || title, mono: true };
    case "patch":
    case "apply_patch":
      return { kind: "edit", verb: going ? "Patching" : "Patched", about: path || title, mono: true };
    case "read": {
      const from = Number(input.offset);
      const many = Number(input.limit);
      const range = Number.isFinite(from) && from > 0 ? `:${from}${Number.isFinite(many) && many > 0 ? `–${from + many}` : ""}` : "";
      return { kind: "read", verb: going ? "Reading" : "Read", about: `${path || title}${range}`, mono: true };
    }
    case "list":
    case "ls":
      return { kind: "read", verb: going ? "Listing" : "Listed", about: path || "the work folder", mono: Boolean(path) };
    case "grep":
      return { kind: "search", verb: going ? "Searching" : "Searched", about: `${text(input.pattern)}${path ? ` in ${path}` : ""}` || title, mono: true };
    case "glob":
      return { kind: "search", verb: going ? "Looking for" : "Looked for", about: `${text(input.pattern)}${path ? ` in ${path}` : ""}` || title, mono: true };
    case "webfetch":
    case "websearch":
      return { kind: "web", verb: going ? "Fetching" : "Fetched", about: text(input.url) || text(input.query) || title, mono: true };
    case "todowrite":
    case "todoread":
      return { kind: "todo", verb: "Planned", about: todoWords(input) || title, mono: false };
    case "task":
      return { kind: "task", verb: going ? "Delegating" : "Delegated", about: text(input.description) || title, mono: false };
    case "question":
      return { kind: "other", verb: going ? "Asking" : "Asked", about: title, mono: false };
    case "skill":
      return { kind: "other", verb: "Skill", about: text(input.name) || title, mono: false };
    default:
      if (item.tool.endsWith("create_pull_request")) {
        return { kind: "pull_request", verb: going ? "Opening a pull request" : "Opened a pull request", about: text(input.title) || title, mono: false };
      }
      return { kind: "other", verb: item.tool, about: title || firstText(input), mono: false };
  }
}

/** What a command printed, without the agent's own marks around what it says about it. */
export function shellOutput(output: string): string {
  return output.replace(/<\/?(?:shell|bash)_metadata>\n?/g, "");
}

/** A path as it is seen from the repository. */
export function workspacePath(path: string): string {
  return path.replace(/^\/workspace\/(?:repo\/)?/, "") || path;
}

function firstLine(command: string): string {
  const line = command.trim().split("\n", 1)[0] ?? "";
  return line.length < command.trim().length ? `${line} …` : line;
}

function firstText(input: Record<string, unknown>): string {
  const found = Object.values(input).find((value) => typeof value === "string" && value !== "");
  return typeof found === "string" ? firstLine(found).slice(0, 200) : "";
}

function todoWords(input: Record<string, unknown>): string {
  if (!Array.isArray(input.todos)) return "";
  const done = input.todos.filter((one: unknown) => typeof one === "object" && one !== null && "status" in one && one.status === "completed").length;
  return `${done} of ${input.todos.length} done`;
}
