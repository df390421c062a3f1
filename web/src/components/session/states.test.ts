import { describe, expect, it } from "vitest";
import type { SessionDetail } from "@/api/types";
import { truths } from "./states";

const base: SessionDetail = {
  id: "ses_1",
  title: null,
  status: "active",
  activity: "running",
  last_outcome: null,
  owner: { id: null, name: "Ada" },
  model: "m",
  effort: null,
  targets: [],
  pull_requests: [],
  cost_usd: 0,
  created_at: "",
  updated_at: "",
  head: 0,
  prompts: [],
  sandbox: { id: "s", state: "ready", connected: true, created_at: "" },
  open_parts: [],
};
const words = (standing: SessionDetail, connection: Parameters<typeof truths>[1] = { state: "live" }) => truths(standing, connection).map((one) => one.word);

describe("the four truths", () => {
  it("are told apart", () => {
    expect(words(base)).toEqual(["Active", "Ready", "Working", "Live"]);
    expect(words({ ...base, activity: "waiting" })[2]).toBe("Waiting for you");
    expect(words({ ...base, sandbox: null, activity: "idle" })).toEqual(["Active", "Not started", "Not running", "Live"]);
  });
  it("never take one's own lost connection for the agent's", () => {
    expect(words(base, { state: "waiting", since: 0, retryAt: 0, attempt: 3 })).toEqual(["Active", "Ready", "Working", "Offline"]);
    expect(words({ ...base, sandbox: { ...base.sandbox!, connected: false } })).toEqual(["Active", "Ready", "Out of reach", "Live"]);
  });
});
