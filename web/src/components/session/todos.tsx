import { ChevronUp, Circle, CircleCheck, CircleDot, CircleSlash } from "lucide-react";
import { useState } from "react";
import type { Todo } from "@/api/types";
import { useTimelineValue } from "@/session/use-session";

const SIGNS = {
  pending: { Sign: Circle, tone: "text-ink-3" },
  in_progress: { Sign: CircleDot, tone: "text-accent" },
  completed: { Sign: CircleCheck, tone: "text-good" },
  cancelled: { Sign: CircleSlash, tone: "text-ink-3" },
} as const;

/** The agent's own list of what it has to do: one line above the composer, folding up to the whole. */
export function Todos() {
  const items = useTimelineValue((store) => store.timeline.todos);
  const [open, setOpen] = useState(false);
  if (items.every((one) => one.state === "completed" || one.state === "cancelled")) return null;
  const done = items.filter((one) => one.state === "completed").length;
  const current = items.find((one) => one.state === "in_progress") ?? items.find((one) => one.state === "pending");
  return (
    <section aria-label="The agent's list" className="mx-2 mb-1 rounded-lg border bg-surface text-sm">
      {open && (
        <ol className="scroll-thin max-h-60 overflow-y-auto border-b px-3 py-2">
          {items.map((item, at) => (
            // oxlint-disable-next-line react/no-array-index-key -- the agent may name two things alike
            <TodoLine key={at} item={item} />
          ))}
        </ol>
      )}
      <button type="button" aria-expanded={open} onClick={() => setOpen(!open)} className="flex w-full min-w-0 items-center gap-2 px-3 py-1 text-left text-xs hover:bg-hover coarse:min-h-10">
        <span className="flex w-16 shrink-0 gap-px" aria-hidden>
          {items.slice(0, 16).map((item, at) => (
            // oxlint-disable-next-line react/no-array-index-key -- as above
            <span key={at} className={`h-1 flex-1 rounded-full ${item.state === "completed" ? "bg-good" : item.state === "in_progress" ? "bg-accent" : "bg-line-strong"}`} />
          ))}
        </span>
        <span className="shrink-0 text-ink-3 tabular">
          {done} of {items.length}
        </span>
        <span className="min-w-0 truncate text-ink-2">{current?.text}</span>
        <ChevronUp className={`ml-auto size-3.5 shrink-0 text-ink-3 transition-transform duration-100 ${open ? "rotate-180" : ""}`} aria-hidden />
      </button>
    </section>
  );
}

export function TodoLine({ item }: { item: Todo }) {
  const { Sign, tone } = SIGNS[item.state];
  return (
    <li className="flex items-start gap-2 py-0.5 text-sm">
      <Sign className={`mt-0.5 size-4 shrink-0 ${tone}`} aria-label={item.state.replace("_", " ")} />
      <span className={item.state === "completed" || item.state === "cancelled" ? "text-ink-3 line-through decoration-line-strong" : ""}>{item.text}</span>
    </li>
  );
}
