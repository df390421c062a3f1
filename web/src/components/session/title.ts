import type { SessionSummary } from "@/api/types";

/** What a session is called, also before it has a title. */
export function titleOf(session: Pick<SessionSummary, "title" | "targets">): string {
  return session.title ?? (session.targets[0] ? `New session on ${session.targets[0].repository}` : "New session");
}
