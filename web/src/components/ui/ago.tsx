/** A moment in relative words, with the exact time on hover. One clock ticks for all of them. */
import { useSyncExternalStore } from "react";
import { ago, exact } from "./words";

let now = Date.now();
const listeners = new Set<() => void>();
let timer: ReturnType<typeof setInterval> | undefined;

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  timer ??= setInterval(() => {
    now = Date.now();
    for (const one of listeners) one();
  }, 15_000);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
      timer = undefined;
    }
  };
}

export function Ago({ at, className }: { at: string; className?: string }) {
  useSyncExternalStore(subscribe, () => now);
  return (
    <time dateTime={at} title={exact(at)} className={className}>
      {ago(at, Date.now())}
    </time>
  );
}
