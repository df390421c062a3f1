import { Brain, ChevronRight } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { Prose } from "@/components/markdown/prose";
import { CopyButton } from "@/components/ui/copy-button";
import type { WritingItem } from "@/session/items";

/** A long paragraph that grows is read anew at each change: it is shown in larger steps, so that it stays cheap. */
function pace(text: string): number {
  const tail = text.length - text.lastIndexOf("\n\n");
  return Math.min(250, Math.max(0, (tail - 1_500) / 40));
}

function usePaced(text: string, streaming: boolean): string {
  const [shown, setShown] = useState(text);
  const newest = useRef(text);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => {
    newest.current = text;
    if (!streaming) return;
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      setShown(newest.current);
    }, pace(text));
  }, [text, streaming]);
  useEffect(
    () => () => {
      clearTimeout(timer.current);
      timer.current = undefined;
    },
    [],
  );
  return streaming && pace(text) > 0 ? shown : text;
}

export function TextRow({ item }: { item: WritingItem }) {
  const text = usePaced(item.text, item.streaming);
  return (
    <div className="group/text relative py-1.5">
      <Prose text={text} className={item.streaming ? "prose-growing" : ""} />
      {item.truncated && <p className="mt-1 text-xs text-ink-3">The text breaks off here.</p>}
      {!item.streaming && (
        <CopyButton text={item.text} label="Copy as markdown" className="absolute -top-0.5 -right-1 bg-page opacity-0 group-hover/text:opacity-100 focus-visible:opacity-100 lg:-right-8" />
      )}
    </div>
  );
}

/** What the agent thought: folded, with its first words to be seen while it is being written. */
export function ReasoningRow({ item }: { item: WritingItem }) {
  const [open, setOpen] = useState(false);
  const peek = item.text.replaceAll(/[*#`\n]+/g, " ").trim();
  return (
    <div>
      <button
        type="button"
        aria-expanded={open}
        onClick={() => setOpen(!open)}
        className="-mx-2 flex w-[calc(100%+1rem)] min-w-0 items-center gap-2 rounded-md px-2 py-1 text-left text-sm text-ink-3 hover:bg-hover coarse:min-h-10"
      >
        <Brain className={`size-4 shrink-0 ${item.streaming ? "animate-breathe text-accent" : ""}`} aria-hidden />
        <span className="shrink-0">{item.streaming ? "Thinking" : "Thought"}</span>
        {!open && <span className="min-w-0 truncate">{item.streaming ? peek.slice(-140) : peek.slice(0, 200)}</span>}
        <ChevronRight className={`ml-auto size-3.5 shrink-0 transition-transform duration-100 ${open ? "rotate-90" : ""}`} aria-hidden />
      </button>
      {open && <Prose text={item.text} className="mt-1 mb-2 ml-[0.45rem] border-l pl-4 text-ink-2" />}
    </div>
  );
}
