import { describe, expect, it } from "vitest";
import type { EventBody, LogEvent, SessionDetail } from "@/api/types";
import { codePoints, skipCodePoints } from "./code-points";
import type { Item, WritingItem } from "./items";
import { RowBuilder } from "./rows";
import { advance } from "./standing";
import { Timeline } from "./timeline";

const ada = { id: "usr_1", name: "Ada" };

/** A log from bodies; `turn` as the events' turn. */
function log(turn: string | null, ...bodies: EventBody[]): LogEvent[] {
  return bodies.map((body, at) => ({ seq: at + 1, at: `2026-11-01T10:00:${String(at % 60).padStart(2, "0")}Z`, turn_id: turn, body }));
}

const queued = (id: string, text = "Fix it"): EventBody => ({
  kind: "prompt.queued",
  prompt_id: id,
  author: ada,
  text,
  model: "anthropic/claude-sonnet-4-6",
  effort: "high",
  attachments: [],
});
const started = (id: string): EventBody => ({ kind: "turn.started", prompt_id: id, model: "anthropic/claude-sonnet-4-6", effort: "high" });
const finished = (id: string, status: "completed" | "failed" | "stopped" = "completed"): EventBody => ({
  kind: "turn.finished",
  prompt_id: id,
  status,
  reason: "",
  remedy: "",
  done: [],
  duration_ms: 1000,
  input_tokens: 1,
  output_tokens: 1,
  cost_usd: 0.01,
});
const text = (id: string, words: string): EventBody => ({ kind: "text", part_id: id, text: words, truncated: false });
const toolStarted = (id: string, tool = "bash"): EventBody => ({ kind: "tool.started", call_id: id, tool, input: { command: "ls" }, truncated: false });
const toolFinished = (id: string, tool = "bash"): EventBody => ({
  kind: "tool.finished",
  call_id: id,
  tool,
  state: "completed",
  title: "",
  input: { command: "ls" },
  output: "a\nb",
  duration_ms: 12,
  truncated: false,
});
const delta = (part: string, offset: number, words: string, turn = "p1") => ({ turn_id: turn, part_id: part, kind: "text" as const, offset, text: words });

const ids = (timeline: Timeline) => timeline.segments.flatMap((segment) => segment.itemIds);
type Shown<K> = K extends "text" ? WritingItem : Extract<Item, { kind: K }>;
const item = <K extends Item["kind"]>(timeline: Timeline, id: string, kind: K) => {
  const found = timeline.items.get(id);
  if (found?.kind !== kind) throw new Error(`${id} is ${found?.kind}`);
  return found as unknown as Shown<K>;
};

const turn = (id: string) =>
  log(
    id,
    queued(id),
    started(id),
    toolStarted(`${id}a`),
    toolFinished(`${id}a`),
    toolStarted(`${id}b`, "edit"),
    toolFinished(`${id}b`, "edit"),
    { kind: "commit", directory: "repo", sha: "abcdef0", subject: "Fix", author: "Ada" },
    text(`${id}t`, "Fixed."),
    finished(id),
  );

describe("the timeline", () => {
  it("puts a tool's result where the tool began", () => {
    const timeline = Timeline.of(log("p1", queued("p1"), started("p1"), toolStarted("c1"), text("t1", "hm"), toolFinished("c1")));
    expect(ids(timeline)).toEqual(["prompt:p1", "c1", "t1"]);
    expect(item(timeline, "c1", "tool")).toMatchObject({ state: "completed", output: "a\nb", seq: 3 });
  });

  it("streams a part by offset and lets the whole part take its place", () => {
    const timeline = Timeline.of(log("p1", queued("p1"), started("p1")));
    expect(timeline.write(delta("t1", 0, "Hello"))).toBe(true);
    expect(timeline.write(delta("t1", 5, " wor"))).toBe(true);
    expect(item(timeline, "t1", "text")).toMatchObject({ text: "Hello wor", streaming: true, seq: null });
    expect(timeline.partLengths()).toEqual({ t1: 9 });
    const structure = timeline.structure;
    timeline.add({ seq: 3, at: "2026-11-01T10:01:00Z", turn_id: "p1", body: text("t1", "Hello world") });
    expect(timeline.structure).toBe(structure);
    expect(item(timeline, "t1", "text")).toMatchObject({ text: "Hello world", streaming: false, seq: 3 });
    expect(timeline.partLengths()).toEqual({});
    expect(timeline.write(delta("t1", 2, "late"))).toBe(true);
    expect(item(timeline, "t1", "text").text).toBe("Hello world");
  });

  it("stands a part where its event is, also when others were logged before it", () => {
    const events = log("p1", queued("p1"), started("p1"), text("t2", "later begun, sooner whole"), text("t1", "half"));
    const live = Timeline.of(events.slice(0, 2));
    live.write(delta("t1", 0, "ha"));
    live.write(delta("t2", 0, "later"));
    for (const event of events.slice(2)) live.add(event);
    expect(ids(live)).toEqual(ids(Timeline.of(events)));
    expect([...live.items.keys()].toSorted()).toEqual([...Timeline.of(events).items.keys()].toSorted());
  });

  it("takes only what is new of a piece that overlaps, and refuses one that begins too late", () => {
    const timeline = Timeline.of(log("p1", queued("p1"), started("p1")));
    timeline.write(delta("t1", 0, "abc"));
    timeline.write(delta("t1", 0, "abcde"));
    expect(item(timeline, "t1", "text").text).toBe("abcde");
    timeline.write(delta("t1", 1, "bcd"));
    expect(item(timeline, "t1", "text").text).toBe("abcde");
    expect(timeline.write(delta("t1", 9, "x"))).toBe(false);
    expect(timeline.write(delta("t2", 1, "x"))).toBe(false);
  });

  it("counts in code points", () => {
    expect(codePoints("a😀b")).toBe(3);
    expect(skipCodePoints("a😀b", 2)).toBe("b");
    const timeline = Timeline.of(log("p1", queued("p1"), started("p1")));
    timeline.write(delta("t1", 0, "😀😀"));
    expect(timeline.write(delta("t1", 2, "!"))).toBe(true);
    expect(timeline.write(delta("t1", 1, "😀!?"))).toBe(true);
    expect(item(timeline, "t1", "text").text).toBe("😀😀!?");
  });

  it("shows the next prompt at once and further ones when their turn begins", () => {
    const timeline = Timeline.of(log(null, queued("p1"), queued("p2"), started("p1"), text("t1", "x"), finished("p1"), started("p2")));
    expect(ids(timeline)).toEqual(["prompt:p1", "t1", "footer:p1", "prompt:p2"]);
    expect(item(timeline, "prompt:p2", "prompt").status).toBe("running");
  });

  it("follows edits and cancellations of what waits", () => {
    const timeline = Timeline.of(
      log(null, queued("p1"), { kind: "prompt.edited", prompt_id: "p1", text: "Better", by: ada }, { kind: "prompt.cancelled", prompt_id: "p1", by: ada }),
    );
    expect(item(timeline, "prompt:p1", "prompt")).toMatchObject({ text: "Better", status: "cancelled" });
    timeline.add({ seq: 9, at: "2026-11-01T11:00:00Z", turn_id: null, body: queued("p2") });
    expect(ids(timeline)).toEqual(["prompt:p1", "prompt:p2"]);
  });

  it("ends what was left open when a turn ends", () => {
    const timeline = Timeline.of(log("p1", queued("p1"), started("p1"), toolStarted("c1")));
    timeline.write(delta("t1", 0, "half"));
    timeline.add({ seq: 4, at: "2026-11-01T11:00:00Z", turn_id: "p1", body: finished("p1", "failed") });
    expect(item(timeline, "c1", "tool").state).toBe("interrupted");
    expect(item(timeline, "t1", "text").streaming).toBe(false);
    expect(timeline.open.size).toBe(0);
  });

  it("gathers a sandbox's start in one item", () => {
    const timeline = Timeline.of(
      log(
        null,
        queued("p1"),
        { kind: "sandbox.changed", sandbox_id: "sbx_1", state: "requested", reason: "", remedy: "" },
        { kind: "sandbox.changed", sandbox_id: "sbx_1", state: "booting", reason: "", remedy: "" },
        { kind: "boot.step", step: "clone", state: "started", detail: "" },
        { kind: "boot.log", step: "clone", text: "Cloning…\n" },
        { kind: "boot.log", step: "clone", text: "done\n" },
        { kind: "boot.step", step: "clone", state: "completed", detail: "11 files", duration_ms: 40 },
        { kind: "sandbox.ready", runtime_version: "1", agent: "opencode 1" },
        { kind: "sandbox.changed", sandbox_id: "sbx_1", state: "ready", reason: "", remedy: "" },
        { kind: "sandbox.changed", sandbox_id: "sbx_1", state: "stopped", reason: "Stopped: idle.", remedy: "" },
      ),
    );
    expect(ids(timeline)).toEqual(["prompt:p1", "boot:sbx_1", "e10"]);
    expect(item(timeline, "boot:sbx_1", "boot")).toMatchObject({
      state: "ready",
      agent: "opencode 1",
      steps: [{ step: "clone", state: "completed", detail: "11 files", durationMs: 40, log: "Cloning…\ndone\n" }],
    });
  });

  it("gives the same items whether events come one by one or were all there", () => {
    const events = log("p1", queued("p1"), started("p1"), toolStarted("c1"), toolFinished("c1"), text("t1", "done"), finished("p1"));
    const live = new Timeline();
    for (const event of events) live.add(event);
    expect([...live.items]).toEqual([...Timeline.of(events).items]);
  });

  it("keeps what is being written when the log is folded anew", () => {
    const events = log("p1", queued("p1"), started("p1"));
    const before = Timeline.of(events);
    before.write(delta("t1", 0, "abc"));
    const after = Timeline.of(events);
    after.adoptOpen(before);
    expect(after.write(delta("t1", 3, "d"))).toBe(true);
    expect(item(after, "t1", "text").text).toBe("abcd");
  });

  it("stands a turn whose prompt is older than the window", () => {
    const timeline = Timeline.of(log("p1", text("t1", "end of it"), finished("p1")));
    expect(ids(timeline)).toEqual(["t1", "footer:p1"]);
  });
});

describe("rows", () => {
  it("folds a finished turn to what matters of it", () => {
    const timeline = Timeline.of(turn("p1"));
    const rows = new RowBuilder().build(timeline, new Set(["p1"]));
    expect(rows.map((row) => row.key)).toEqual(["prompt:p1", "work:p1", "p1t", "footer:p1"]);
    expect(rows[1]).toMatchObject({ work: { tools: 2, edits: 1, commits: 1, failed: 0 }, folded: true });
    const open = new RowBuilder().build(timeline, new Set());
    expect(open.map((row) => row.key)).toEqual(["prompt:p1", "work:p1", "p1a", "p1b", "e7", "p1t", "footer:p1"]);
  });

  it("never folds a running turn", () => {
    const timeline = Timeline.of(turn("p1").slice(0, 7));
    expect(new RowBuilder().build(timeline, new Set(["p1"])).map((row) => row.key)).toEqual(["prompt:p1", "p1a", "p1b", "e7"]);
  });

  it("reuses the rows of turns that did not change", () => {
    const timeline = Timeline.of(turn("p1"));
    const builder = new RowBuilder();
    const before = builder.build(timeline, new Set());
    for (const [at, event] of turn("p2").entries()) timeline.add({ ...event, seq: 100 + at });
    const after = builder.build(timeline, new Set());
    expect(after[0]).toBe(before[0]);
    expect(after.length).toBe(before.length * 2);
  });
});

describe("a large log", () => {
  it("folds 20,000 events in well under a second", () => {
    const events: LogEvent[] = [];
    for (let at = 0; at < 20_000; at += 2) {
      const id = `c${at}`;
      events.push({ seq: at + 1, at: "2026-11-01T10:00:00Z", turn_id: "p1", body: toolStarted(id) });
      events.push({ seq: at + 2, at: "2026-11-01T10:00:00Z", turn_id: "p1", body: toolFinished(id) });
    }
    const began = performance.now();
    const timeline = Timeline.of(events);
    new RowBuilder().build(timeline, new Set());
    expect(timeline.items.size).toBe(10_000);
    expect(performance.now() - began).toBeLessThan(1_000);
  });
});

describe("standing", () => {
  const idle: SessionDetail = {
    id: "ses_1",
    title: null,
    status: "active",
    activity: "idle",
    last_outcome: null,
    owner: ada,
    model: "anthropic/claude-sonnet-4-6",
    effort: "high",
    targets: [],
    pull_requests: [],
    cost_usd: 0,
    created_at: "2026-11-01T10:00:00Z",
    updated_at: "2026-11-01T10:00:00Z",
    head: 0,
    prompts: [],
    sandbox: null,
    open_parts: [],
  };
  const after = (...bodies: EventBody[]) => log("p1", ...bodies).reduce(advance, idle);

  it("derives what a session is doing", () => {
    expect(after(queued("p1")).activity).toBe("queued");
    const booting: EventBody = { kind: "sandbox.changed", sandbox_id: "s", state: "booting", reason: "", remedy: "" };
    expect(after(queued("p1"), booting).activity).toBe("starting");
    expect(after(queued("p1"), booting, started("p1")).activity).toBe("running");
    const asked: EventBody = {
      kind: "question.asked",
      question_id: "q",
      questions: [{ text: "Which?", options: [], multiple: false }],
      deadline: "2026-11-01T11:00:00Z",
      default: "the first",
    };
    expect(after(queued("p1"), started("p1"), asked).activity).toBe("waiting");
    expect(after(queued("p1"), started("p1"), asked, text("t", "x")).activity).toBe("waiting");
    expect(after(queued("p1"), started("p1"), asked, { kind: "question.closed", question_id: "q", outcome: "timed_out" }).activity).toBe("running");
    expect(after(queued("p1"), started("p1"), finished("p1")).activity).toBe("idle");
  });

  it("ignores what it has already counted", () => {
    const called: EventBody = {
      kind: "model.called",
      provider: "anthropic",
      model: "claude-sonnet-4-6",
      scripted: true,
      input_tokens: 1,
      output_tokens: 1,
      cache_read_tokens: 0,
      cache_write_tokens: 0,
      cost_usd: 0.5,
      duration_ms: 9,
    };
    const [event] = log("p1", called);
    const once = advance(idle, event!);
    expect(once.cost_usd).toBe(0.5);
    expect(advance(once, event!)).toBe(once);
  });
});
