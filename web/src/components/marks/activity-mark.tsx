import { Archive, Circle, CircleCheck, CircleDashed, CircleStop, CircleX, Clock3, LoaderCircle, MessageCircleQuestion } from "lucide-react";
import type { SessionSummary } from "@/api/types";
import { TONES, doing } from "./activity";

const SIGNS = {
  running: LoaderCircle,
  starting: CircleDashed,
  queued: Clock3,
  waiting: MessageCircleQuestion,
  done: CircleCheck,
  failed: CircleX,
  stopped: CircleStop,
  new: Circle,
  archived: Archive,
} as const;

/** What a session is doing: a sign of its own for each state, so that colour is not all that tells them apart. */
export function ActivityMark({ session, word = false, className = "" }: { session: Pick<SessionSummary, "status" | "activity" | "last_outcome">; word?: boolean; className?: string }) {
  const state = doing(session);
  const Sign = SIGNS[state.sign];
  const motion = state.sign === "running" ? "animate-turn" : state.sign === "starting" ? "animate-breathe" : "";
  return (
    <span className={`inline-flex items-center gap-1.5 ${TONES[state.tone]} ${className}`} title={word ? undefined : state.word}>
      <Sign className={`size-4 shrink-0 ${motion}`} aria-hidden />
      {word ? <span className="text-xs font-medium whitespace-nowrap">{state.word}</span> : <span className="sr-only">{state.word}</span>}
    </span>
  );
}
