import { Box, Check, ChevronRight, CircleDashed, LoaderCircle, X } from "lucide-react";
import { useState } from "react";
import { Elapsed } from "@/components/ui/elapsed";
import { duration } from "@/components/ui/words";
import type { BootItem, BootStepView } from "@/session/items";
import { Terminal } from "./terminal";

const STEPS: Record<string, string> = {
  clone: "Clone the repository",
  setup: "Run setup.sh",
  start: "Run start.sh",
  agent: "Start the agent",
};

/** How a sandbox came up: one line, folding out to its steps and their logs. */
export function BootRow({ item }: { item: BootItem }) {
  const [open, setOpen] = useState<boolean | null>(null);
  const shown = open ?? (item.state === "failed" || item.state === "running");
  const going = item.state === "running";
  const current = item.steps.findLast((one) => one.state === "started");
  const took = item.endedAt ? Date.parse(item.endedAt) - Date.parse(item.at) : null;
  return (
    <div role="group" aria-label="Sandbox" className={`my-2 overflow-hidden rounded-lg border ${item.state === "failed" ? "border-bad/40 bg-bad-soft" : "bg-surface"}`}>
      <button type="button" aria-expanded={shown} onClick={() => setOpen(!shown)} className="flex w-full min-w-0 items-center gap-2 px-3 py-1.5 text-left text-sm hover:bg-hover coarse:min-h-10">
        {going ? (
          <LoaderCircle className="size-4 shrink-0 animate-turn text-accent" aria-hidden />
        ) : item.state === "failed" ? (
          <X className="size-4 shrink-0 text-bad" aria-hidden />
        ) : (
          <Box className="size-4 shrink-0 text-ink-3" aria-hidden />
        )}
        <span className="shrink-0 text-ink-2">
          {going ? "Starting a sandbox" : item.state === "failed" ? "The sandbox did not start" : item.state === "ended" ? "The sandbox was stopped while it started" : "Sandbox ready"}
        </span>
        <span className="min-w-0 truncate text-ink-3">{going ? current && (STEPS[current.step] ?? current.step) : item.agent}</span>
        <span className="ml-auto flex shrink-0 items-center gap-1.5 pl-2 text-xs text-ink-3 tabular">
          {going ? <Elapsed since={item.at} /> : took !== null && duration(took)}
          <ChevronRight className={`size-3.5 transition-transform duration-100 ${shown ? "rotate-90" : ""}`} aria-hidden />
        </span>
      </button>
      {item.reason && (
        <div className="border-t px-3 py-2 text-sm">
          <p className="font-medium break-words">{item.reason}</p>
          {item.remedy && <p className="mt-0.5 text-ink-2">{item.remedy}</p>}
        </div>
      )}
      {shown && (
        <ol className="border-t py-1">
          {item.steps.map((step) => (
            <Step key={step.step} step={step} />
          ))}
          {item.checkouts.map((one) => (
            <li key={one.directory} className="flex min-w-0 gap-2 px-3 py-0.5 pl-9 text-xs text-ink-3">
              <span className="truncate">
                <span className="font-mono">{one.directory}</span> {one.restored ? "was there already, on" : "checked out on"} <span className="font-mono">{one.branch}</span>
              </span>
              <span className="ml-auto font-mono">{one.sha.slice(0, 7)}</span>
            </li>
          ))}
          {item.steps.length === 0 && going && <li className="px-3 py-1 pl-9 text-xs text-ink-3">Waiting for a place to run…</li>}
        </ol>
      )}
      {shown && item.logTail && (
        <pre className="scroll-thin max-h-60 overflow-auto border-t bg-sunken px-3 py-2 font-mono text-[0.74rem] leading-[1.2rem] break-words whitespace-pre-wrap">
          <Terminal text={item.logTail} />
        </pre>
      )}
    </div>
  );
}

function Step({ step }: { step: BootStepView }) {
  const [open, setOpen] = useState<boolean | null>(null);
  const shown = open ?? (step.state === "failed" && step.log !== "");
  const Sign = step.state === "completed" ? Check : step.state === "failed" ? X : CircleDashed;
  return (
    <li>
      <button
        type="button"
        aria-expanded={step.log ? shown : undefined}
        disabled={!step.log}
        onClick={() => setOpen(!shown)}
        className="flex w-full min-w-0 items-center gap-2 min-h-6 px-3 py-0.5 text-left text-xs enabled:hover:bg-hover coarse:min-h-9"
      >
        <Sign
          className={`size-4 shrink-0 p-px ${step.state === "failed" ? "text-bad" : step.state === "completed" ? "text-good" : "animate-breathe text-accent"}`}
          aria-label={step.state}
        />
        <span className="shrink-0 text-ink-2">{STEPS[step.step] ?? step.step}</span>
        <span className="min-w-0 truncate text-ink-3">{step.detail}</span>
        <span className="ml-auto shrink-0 pl-2 text-ink-3 tabular">{step.durationMs !== null && duration(step.durationMs)}</span>
        {step.log && <ChevronRight className={`size-3.5 shrink-0 text-ink-3 transition-transform duration-100 ${shown ? "rotate-90" : ""}`} aria-hidden />}
      </button>
      {shown && (
        <pre className="scroll-thin mx-3 my-1 ml-9 max-h-72 overflow-auto rounded-md bg-sunken px-2.5 py-1.5 font-mono text-[0.72rem] leading-[1.15rem] break-words whitespace-pre-wrap text-ink-2">
          <Terminal text={step.log} />
        </pre>
      )}
    </li>
  );
}
