/** What a session is doing, in a word. */
import type { SessionSummary } from "@/api/types";

export type Doing = { word: string; tone: "accent" | "warn" | "good" | "bad" | "quiet"; sign: "running" | "starting" | "queued" | "waiting" | "done" | "failed" | "stopped" | "new" | "archived" };

export function doing(session: Pick<SessionSummary, "status" | "activity" | "last_outcome">): Doing {
  if (session.status !== "active") return { word: session.status === "archived" ? "Archived" : "Being deleted", tone: "quiet", sign: "archived" };
  switch (session.activity) {
    case "running":
      return { word: "Working", tone: "accent", sign: "running" };
    case "starting":
      return { word: "Starting", tone: "accent", sign: "starting" };
    case "queued":
      return { word: "Queued", tone: "quiet", sign: "queued" };
    case "waiting":
      return { word: "Waiting for an answer", tone: "warn", sign: "waiting" };
    case "idle":
      if (session.last_outcome === "completed") return { word: "Done", tone: "good", sign: "done" };
      if (session.last_outcome === "failed") return { word: "Failed", tone: "bad", sign: "failed" };
      if (session.last_outcome === "stopped") return { word: "Stopped", tone: "quiet", sign: "stopped" };
      return { word: "Not prompted yet", tone: "quiet", sign: "new" };
  }
}

export const TONES = { accent: "text-accent", warn: "text-warn", good: "text-good", bad: "text-bad", quiet: "text-ink-3" } as const;
