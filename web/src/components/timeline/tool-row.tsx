/** A tool call as what it is: a command with its output, an edit as a diff, a look at a file as one line. */
import { ChevronRight, CircleSlash, FilePen, FilePlus2, FileText, GitPullRequest, Globe, ListChecks, LoaderCircle, Search, SquareTerminal, Waypoints, Wrench, X } from "lucide-react";
import { memo, useMemo, useState } from "react";
import { DiffLines } from "@/components/diff/lines";
import { lineDiff } from "@/components/diff/line-diff";
import type { DiffLine } from "@/components/diff/patch";
import { CopyButton } from "@/components/ui/copy-button";
import { duration } from "@/components/ui/words";
import type { ToolItem } from "@/session/items";
import { plain } from "./ansi";
import { Terminal } from "./terminal";
import { type ToolKind, shellOutput, toolWords } from "./tool-words";

const SIGNS: Record<ToolKind, typeof Wrench> = {
  shell: SquareTerminal,
  edit: FilePen,
  write: FilePlus2,
  read: FileText,
  search: Search,
  web: Globe,
  todo: ListChecks,
  task: Waypoints,
  pull_request: GitPullRequest,
  other: Wrench,
};

const PREVIEW_OUTPUT = 5;
const PREVIEW_DIFF = 8;

export const ToolRow = memo(function ToolRow({ item }: { item: ToolItem }) {
  const words = toolWords(item);
  const [open, setOpen] = useState(false);
  const Sign = SIGNS[words.kind];
  const diff = useMemo(() => diffOf(item), [item]);
  const shell = words.kind === "shell";
  const preview = shell || diff.length > 0;
  return (
    <div className={preview ? "my-1.5 overflow-hidden rounded-lg border bg-surface" : ""}>
      <div className={`flex min-w-0 items-center ${preview ? "" : "-mx-2 rounded-md hover:bg-hover"}`}>
        <button
          type="button"
          aria-expanded={open}
          onClick={() => setOpen(!open)}
          className={`flex min-w-0 flex-1 items-center gap-2 text-left text-sm coarse:min-h-10 ${preview ? "px-3 py-1.5 hover:bg-hover" : "px-2 py-1"}`}
        >
          <Mark item={item} Sign={Sign} />
          {words.verb && <span className="shrink-0 text-ink-2">{words.verb}</span>}
          <span className={`min-w-0 truncate ${words.mono ? "font-mono text-xs" : ""} ${preview ? "text-ink" : "text-ink-2"}`}>{words.about}</span>
          {diff.length > 0 && <DiffCounts lines={diff} />}
          <span className="ml-auto flex shrink-0 items-center gap-1.5 pl-2 text-xs text-ink-3 tabular">
            {item.state === "failed" && <span className="font-medium text-bad">failed</span>}
            {failedCommand(item) && <span className="font-medium text-warn">exit code {item.exitCode}</span>}
            {item.state === "interrupted" && <span>interrupted</span>}
            {item.durationMs !== null && item.durationMs >= 100 && duration(item.durationMs)}
            <ChevronRight className={`size-3.5 transition-transform duration-100 ${open ? "rotate-90" : ""}`} aria-hidden />
          </span>
        </button>
      </div>
      {shell && <Shell item={item} open={open} />}
      {diff.length > 0 && <EditBody lines={diff} open={open} onMore={() => setOpen(true)} failed={item.state === "failed" ? item.output : ""} />}
      {!preview && open && <Plain item={item} />}
      {item.truncated && open && <p className="border-t px-3 py-1 text-2xs text-ink-3">Cut: the whole was longer than is kept.</p>}
    </div>
  );
});

function Mark({ item, Sign }: { item: ToolItem; Sign: typeof Wrench }) {
  if (item.state === "running") return <LoaderCircle className="size-4 shrink-0 animate-turn text-accent" aria-label="running" />;
  if (item.state === "failed") return <X className="size-4 shrink-0 text-bad" aria-label="failed" />;
  if (item.state === "interrupted") return <CircleSlash className="size-4 shrink-0 text-ink-3" aria-label="interrupted" />;
  return <Sign className={`size-4 shrink-0 ${failedCommand(item) ? "text-warn" : "text-ink-3"}`} aria-hidden />;
}

/** The call went through, the command did not. */
function failedCommand(item: ToolItem): boolean {
  return item.state === "completed" && item.exitCode !== null && item.exitCode !== 0;
}

function DiffCounts({ lines }: { lines: DiffLine[] }) {
  const added = lines.filter((one) => one.kind === "added").length;
  const removed = lines.filter((one) => one.kind === "removed").length;
  return (
    <span className="flex shrink-0 gap-1.5 font-mono text-xs tabular">
      {added > 0 && <span className="text-good">+{added}</span>}
      {removed > 0 && <span className="text-bad">−{removed}</span>}
    </span>
  );
}

function Shell({ item, open }: { item: ToolItem; open: boolean }) {
  const command = typeof item.input.command === "string" ? item.input.command : JSON.stringify(item.input);
  const printed = shellOutput(item.output);
  const lines = printed.trimEnd().split("\n").length;
  const cut = !open && lines > PREVIEW_OUTPUT;
  const output = printed.trim() !== "";
  return (
    <div className="group/shell relative border-t bg-sunken">
      <pre
        // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- so that the keyboard can scroll it
        tabIndex={open ? 0 : undefined}
        className={`scroll-thin overflow-auto px-3 py-2 font-mono text-[0.74rem] leading-[1.2rem] break-words whitespace-pre-wrap ${open ? "max-h-[28rem]" : ""}`}
      >
        <span className="text-ink">
          <span className="text-ink-3 select-none">$ </span>
          {open ? command : command.trim().split("\n").slice(0, 3).join("\n")}
        </span>
        {output && (
          <span className="mt-1 block text-ink-2">
            {cut && <span className="block text-ink-3 select-none">⋯ {lines - PREVIEW_OUTPUT} lines above</span>}
            <Terminal text={printed} lines={cut ? PREVIEW_OUTPUT : undefined} />
          </span>
        )}
      </pre>
      <CopyButton
        text={() => `$ ${command}\n${plain(printed)}`}
        label="Copy command and output"
        className="absolute top-1 right-1 bg-sunken opacity-0 group-hover/shell:opacity-100 focus-visible:opacity-100"
      />
    </div>
  );
}

function EditBody({ lines, open, onMore, failed }: { lines: DiffLine[]; open: boolean; onMore: () => void; failed: string }) {
  const shown = open ? lines : around(lines);
  return (
    <div className="border-t">
      {failed && <p className="bg-bad-soft px-3 py-1.5 font-mono text-xs text-bad">{failed.slice(0, 600)}</p>}
      <DiffLines lines={shown} numbers={false} />
      {shown.length < lines.length && (
        <button type="button" onClick={onMore} className="w-full border-t px-3 py-1 text-left text-xs text-ink-3 hover:bg-hover hover:text-ink">
          {lines.length - shown.length} more lines
        </button>
      )}
    </div>
  );
}

/** The first lines about the first change. */
function around(lines: DiffLine[]): DiffLine[] {
  const first = Math.max(0, lines.findIndex((one) => one.kind !== "same") - 1);
  return lines.slice(first, first + PREVIEW_DIFF);
}

function Plain({ item }: { item: ToolItem }) {
  const input = JSON.stringify(item.input, null, 2);
  return (
    <div className="mt-1 mb-2 ml-[0.45rem] space-y-2 border-l pl-4 font-mono text-[0.74rem] leading-[1.2rem]">
      {input !== "{}" && <pre className="scroll-thin max-h-60 overflow-auto break-words whitespace-pre-wrap text-ink-3">{input}</pre>}
      {item.output.trim() !== "" && (
        <pre className="scroll-thin max-h-96 overflow-auto rounded-md bg-sunken px-3 py-2 break-words whitespace-pre-wrap text-ink-2">
          <Terminal text={item.output} />
        </pre>
      )}
    </div>
  );
}

function diffOf(item: ToolItem): DiffLine[] {
  const { input } = item;
  const before = text(input.oldString) ?? text(input.old_string);
  const after = text(input.newString) ?? text(input.new_string);
  if (before !== null && after !== null) return lineDiff(before, after);
  const content = text(input.content);
  if (item.tool === "write" && content !== null) return lineDiff("", content);
  const patch = text(input.patchText) ?? text(input.patch);
  if (patch !== null) {
    return patch.split("\n").flatMap((line): DiffLine[] => {
      if (line.startsWith("+") && !line.startsWith("+++")) return [{ kind: "added", text: line.slice(1), old: null, new: null }];
      if (line.startsWith("-") && !line.startsWith("---")) return [{ kind: "removed", text: line.slice(1), old: null, new: null }];
      return line.trim() === "" || line.startsWith("@@") ? [] : [{ kind: "same", text: line.replace(/^ /, ""), old: null, new: null }];
    });
  }
  return [];
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}
