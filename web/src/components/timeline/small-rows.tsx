import { ChevronRight, CircleAlert, GitCommitHorizontal, Info, RotateCw, TriangleAlert } from "lucide-react";
import { useState } from "react";
import { POST, given } from "@/api/client";
import { useCan } from "@/components/shell/me";
import { Button } from "@/components/ui/button";
import { CopyButton } from "@/components/ui/copy-button";
import { complain } from "@/components/ui/toasts";
import { clock, count, duration, exact, money, plural } from "@/components/ui/words";
import type { CommitItem, FooterItem, NoticeItem } from "@/session/items";
import type { Row } from "@/session/rows";
import { useStore } from "@/session/use-session";
import { Terminal } from "./terminal";

export function CommitRow({ item }: { item: CommitItem }) {
  return (
    <div className="-mx-2 flex min-w-0 items-center gap-2 px-2 py-1 text-sm">
      <GitCommitHorizontal className="size-4 shrink-0 text-ink-3" aria-hidden />
      <span className="shrink-0 text-ink-2">Committed</span>
      <span className="min-w-0 truncate font-medium" title={`${item.subject}\n${item.author}`}>
        {item.subject}
      </span>
      <span className="ml-auto flex shrink-0 items-center font-mono text-xs text-ink-3">
        {item.sha.slice(0, 7)}
        <CopyButton text={item.sha} label="Copy the commit's id" className="-my-1" />
      </span>
    </div>
  );
}

const NOTICE = {
  neutral: { Sign: Info, tone: "text-ink-3" },
  warning: { Sign: TriangleAlert, tone: "text-warn" },
  danger: { Sign: CircleAlert, tone: "text-bad" },
} as const;

export function NoticeRow({ item }: { item: NoticeItem }) {
  const [open, setOpen] = useState(false);
  const { Sign, tone } = NOTICE[item.tone];
  return (
    <div className={item.tone === "danger" ? "my-1.5 rounded-lg bg-bad-soft px-3 py-2" : "py-1"}>
      <div className="flex items-start gap-2 text-sm">
        <Sign className={`mt-0.5 size-4 shrink-0 ${tone}`} aria-hidden />
        <div className={`min-w-0 flex-1 break-words ${item.tone === "neutral" ? "text-ink-3" : "text-ink-2"}`} title={exact(item.at)}>
          {item.text}
          {item.remedy && <span className="block text-ink-3">{item.remedy}</span>}
        </div>
        {item.log && (
          <button type="button" aria-expanded={open} onClick={() => setOpen(!open)} className="text-xs text-accent hover:underline">
            log
          </button>
        )}
      </div>
      {open && (
        <pre className="scroll-thin mt-1.5 max-h-60 overflow-auto rounded-md bg-sunken px-3 py-2 font-mono text-[0.72rem] leading-[1.15rem] break-words whitespace-pre-wrap">
          <Terminal text={item.log} />
        </pre>
      )}
    </div>
  );
}

/** A finished turn's work as one line. */
export function WorkRow({ row }: { row: Extract<Row, { kind: "work" }> }) {
  const store = useStore();
  const { tools, edits, commits, failed } = row.work;
  const told = [
    tools > 0 && plural(tools, "step"),
    edits > 0 && plural(edits, "edit"),
    commits > 0 && plural(commits, "commit"),
    failed > 0 && `${failed} failed`,
  ].filter(Boolean);
  const footer = store.timeline.items.get(`footer:${row.segmentId}`);
  return (
    <button
      type="button"
      aria-expanded={!row.folded}
      onClick={() => store.toggle(row.segmentId)}
      className="-mx-2 mt-2 flex w-[calc(100%+1rem)] items-center gap-2 rounded-md px-2 py-1 text-left text-sm text-ink-3 hover:bg-hover hover:text-ink-2 coarse:min-h-10"
    >
      <ChevronRight className={`size-4 shrink-0 transition-transform duration-100 ${row.folded ? "" : "rotate-90"}`} aria-hidden />
      <span className="text-ink-2">{footer?.kind === "footer" ? `Worked for ${duration(footer.durationMs)}` : "Worked"}</span>
      <span className="truncate">{told.join(" · ")}</span>
    </button>
  );
}

/** The end of a turn: what it took; and when it went wrong, why, what to do, and another try. */
export function FooterRow({ item }: { item: FooterItem }) {
  const figures = (
    <p className="flex flex-wrap items-center gap-x-3 gap-y-0.5 text-xs text-ink-3 tabular">
      <span title="How long the turn took">{duration(item.durationMs)}</span>
      <span title={`${item.inputTokens} tokens in, ${item.outputTokens} out`}>
        {count(item.inputTokens)} in · {count(item.outputTokens)} out
      </span>
      <span title="What the model cost">{money(item.costUsd)}</span>
      <time dateTime={item.at} title={exact(item.at)}>
        {clock(item.at)}
      </time>
    </p>
  );
  if (item.status === "completed") return <footer className="pt-1 pb-3">{figures}</footer>;
  const failed = item.status === "failed";
  return (
    <div role="group" aria-label={`End of the turn: ${item.status}`} className={`mt-1.5 mb-3 rounded-lg border px-3.5 py-3 ${failed ? "border-bad/35 bg-bad-soft" : "bg-surface"}`}>
      <div className="flex items-start gap-2.5 max-sm:flex-wrap max-sm:justify-end">
        <CircleAlert className={`mt-0.5 size-4 shrink-0 ${failed ? "text-bad" : "text-ink-3"}`} aria-hidden />
        <div className="min-w-0 flex-1 text-sm break-words max-sm:basis-[calc(100%-2rem)]">
          <p className="font-medium">{item.reason || (failed ? "The turn failed." : "Stopped.")}</p>
          {item.remedy && <p className="mt-0.5 text-ink-2">{item.remedy}</p>}
          {item.done.length > 0 && (
            <div className="mt-2 text-ink-2">
              Already done, and not done again by another try:
              <ul className="mt-0.5 list-disc pl-5">
                {item.done.map((one) => (
                  <li key={one}>{one}</li>
                ))}
              </ul>
            </div>
          )}
          <div className="mt-2">{figures}</div>
        </div>
        <Retry promptId={item.promptId} />
      </div>
    </div>
  );
}

function Retry({ promptId }: { promptId: string }) {
  const { id } = useStore();
  const can = useCan();
  const [busy, setBusy] = useState(false);
  if (!can("sessions.prompt")) return null;
  return (
    <Button
      size="sm"
      busy={busy}
      onClick={() => {
        setBusy(true);
        given(POST("/api/sessions/{session_id}/prompts/{prompt_id}/retry", { params: { path: { session_id: id, prompt_id: promptId } } }))
          .catch(complain)
          .finally(() => setBusy(false));
      }}
    >
      <RotateCw className="size-3.5" /> Try again
    </Button>
  );
}
