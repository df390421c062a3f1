/** Short words at the edge of the page that go away by themselves. Problems stay until they are closed. */
import { CircleAlert, CircleCheck, X } from "lucide-react";
import { useSyncExternalStore } from "react";
import { asProblem } from "@/api/problem";

type Toast = { id: number; text: string; remedy: string; bad: boolean };

let toasts: Toast[] = [];
let next = 1;
const listeners = new Set<() => void>();

function change(to: Toast[]): void {
  toasts = to;
  for (const listener of listeners) listener();
}

export function say(text: string): void {
  const id = next++;
  change([...toasts, { id, text, remedy: "", bad: false }].slice(-4));
  setTimeout(() => dismiss(id), 4_000);
}

/** Shows what was thrown: for handlers of promises that nobody else looks at. */
export function complain(thrown: unknown): void {
  const problem = asProblem(thrown);
  const id = next++;
  change([...toasts, { id, text: problem.message, remedy: problem.remedy, bad: true }].slice(-4));
  setTimeout(() => dismiss(id), 15_000);
}

function dismiss(id: number): void {
  change(toasts.filter((one) => one.id !== id));
}

export function Toasts() {
  const shown = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => toasts,
  );
  return (
    <div role="status" aria-live="polite" className="pointer-events-none fixed right-3 bottom-3 z-50 flex w-[min(24rem,calc(100vw-1.5rem))] flex-col gap-2 pb-[env(safe-area-inset-bottom)]">
      {shown.map((toast) => (
        <div key={toast.id} className="pointer-events-auto flex animate-rise items-start gap-2.5 rounded-lg bg-surface px-3 py-2.5 text-sm shadow-float">
          {toast.bad ? <CircleAlert className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden /> : <CircleCheck className="mt-0.5 size-4 shrink-0 text-good" aria-hidden />}
          <div className="min-w-0 flex-1 break-words">
            {toast.text}
            {toast.remedy && <p className="text-ink-2">{toast.remedy}</p>}
          </div>
          <button type="button" aria-label="Dismiss" onClick={() => dismiss(toast.id)} className="rounded p-0.5 text-ink-3 hover:text-ink">
            <X className="size-4" />
          </button>
        </div>
      ))}
    </div>
  );
}
