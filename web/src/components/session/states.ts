/** The four truths about a session, each told for itself: the session, its sandbox, its agent, and your own connection. Pure. */
import type { SessionDetail } from "@/api/types";
import type { Connection } from "@/stream/session-stream";

export type Truth = { name: string; word: string; tone: "good" | "accent" | "warn" | "bad" | "quiet"; explain: string };

export function truths(standing: SessionDetail, connection: Connection): [Truth, Truth, Truth, Truth] {
  return [sessionTruth(standing), sandboxTruth(standing), agentTruth(standing), connectionTruth(connection)];
}

function sessionTruth({ status }: SessionDetail): Truth {
  const name = "Session";
  if (status === "archived") return { name, word: "Archived", tone: "quiet", explain: "Put away. It can be restored." };
  if (status === "deleting") return { name, word: "Being deleted", tone: "bad", explain: "It is being deleted with all that belongs to it." };
  return { name, word: "Active", tone: "good", explain: "It takes prompts." };
}

function sandboxTruth({ sandbox, prompts }: SessionDetail): Truth {
  const name = "Sandbox";
  const why = sandbox?.reason ?? "";
  switch (sandbox?.state) {
    case undefined:
      return { name, word: "Not started", tone: "quiet", explain: prompts.length > 0 ? "There is none yet." : "One starts with the first prompt." };
    case "requested":
      return { name, word: "Requested", tone: "accent", explain: "Waiting for a place to run." };
    case "booting":
      return { name, word: sandbox.boot_step ? `Starting: ${sandbox.boot_step}` : "Starting", tone: "accent", explain: "It is being made ready." };
    case "ready":
      return { name, word: "Ready", tone: "good", explain: "It runs." };
    case "stopping":
      return { name, word: "Stopping", tone: "quiet", explain: why || "It is being stopped." };
    case "stopped":
      return { name, word: "Stopped", tone: "quiet", explain: why || "The next prompt starts another." };
    case "failed":
      return { name, word: "Failed", tone: "bad", explain: [why, sandbox.remedy].filter(Boolean).join(" ") || "It could not start." };
    case "lost":
      return { name, word: "Lost", tone: "bad", explain: [why, sandbox.remedy].filter(Boolean).join(" ") || "It is gone." };
  }
}

function agentTruth({ sandbox, activity, prompts }: SessionDetail): Truth {
  const name = "Agent";
  if (!sandbox || sandbox.state !== "ready") return { name, word: "Not running", tone: "quiet", explain: "It runs when the sandbox is ready." };
  if (prompts.some((one) => one.status === "running" && one.stop_requested)) return { name, word: "Stopping", tone: "warn", explain: "It ends within five seconds." };
  if (activity === "waiting") return { name, word: "Waiting for you", tone: "warn", explain: "It has asked something." };
  if (sandbox.agent === "restarting") return { name, word: "Restarting", tone: "warn", explain: "It stopped by itself and is being started again." };
  if (sandbox.agent === "failed") return { name, word: "Failed", tone: "bad", explain: "It can't be started." };
  if (!sandbox.connected && activity === "running") return { name, word: "Out of reach", tone: "warn", explain: "The sandbox is not connected at this moment; its work goes on and arrives later." };
  if (activity === "running") return { name, word: "Working", tone: "accent", explain: "It is on a prompt." };
  return { name, word: "Idle", tone: "good", explain: "It waits for a prompt." };
}

const OFFLINE: Truth = { name: "You", word: "Offline", tone: "warn", explain: "The page can't reach the server. The session goes on without it." };

function connectionTruth(connection: Connection): Truth {
  const name = "You";
  switch (connection.state) {
    case "live":
      return { name, word: "Live", tone: "good", explain: "You see what happens as it happens." };
    case "connecting":
      if (connection.again) return OFFLINE;
      return { name, word: "Connecting", tone: "accent", explain: "The page is catching up." };
    case "waiting":
      return OFFLINE;
    case "ended":
      return { name, word: "Disconnected", tone: "quiet", explain: "This page is no longer following the session." };
  }
}
