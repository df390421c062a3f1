import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ApiProblem } from "@/api/problem";
import type { Delta, LogEvent } from "@/api/types";
import { backoff } from "./backoff";
import { type Connection, SessionStream, type Socket } from "./session-stream";

class FakeSocket {
  onopen: (() => void) | null = null;
  onmessage: ((message: { data: unknown }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;
  sent: { type: string; [key: string]: unknown }[] = [];
  closed = false;
  send(data: string): void {
    this.sent.push(JSON.parse(data));
  }
  close(): void {
    this.closed = true;
  }
  tell(message: unknown): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
}

const event = (seq: number): LogEvent => ({ seq, at: "2026-11-01T10:00:00Z", turn_id: null, body: { kind: "context.compacted" } });

function setUp(after = 0, ticket: () => Promise<string> = () => Promise.resolve("t")) {
  const sockets: FakeSocket[] = [];
  const seqs: number[] = [];
  const connections: Connection[] = [];
  let parts: Record<string, number> = {};
  let fits = true;
  let resets = 0;
  const deltas: Delta[] = [];
  const stream = new SessionStream(
    {
      after,
      ticket,
      connect: () => {
        const socket = new FakeSocket();
        sockets.push(socket);
        return socket as unknown as Socket;
      },
    },
    {
      onEvents: (events) => seqs.push(...events.map((one) => one.seq)),
      onDeltas: (some) => {
        deltas.push(...some);
        return fits;
      },
      onPresence: () => undefined,
      onConnection: (connection) => connections.push(connection),
      onReset: () => (resets += 1),
      parts: () => parts,
    },
  );
  return {
    stream,
    sockets,
    seqs,
    connections,
    deltas,
    setParts: (value: Record<string, number>) => (parts = value),
    setFits: (value: boolean) => (fits = value),
    resets: () => resets,
    newest: () => sockets.at(-1)!,
    open: async () => {
      await vi.advanceTimersByTimeAsync(0);
      sockets.at(-1)!.onopen?.();
    },
  };
}

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

describe("SessionStream", () => {
  it("opens with a ticket and its cursor, and is live when synced", async () => {
    const { stream, open, newest, connections, setParts } = setUp(7);
    setParts({ p1: 12 });
    stream.start();
    await open();
    expect(newest().sent).toEqual([{ type: "open", ticket: "t", cursor: { after: 7, parts: { p1: 12 } } }]);
    newest().tell({ type: "synced", head: 7 });
    expect(connections.map((one) => one.state)).toEqual(["connecting", "live"]);
  });

  it("gives each event once and in order", async () => {
    const { stream, open, newest, seqs } = setUp(2);
    stream.start();
    await open();
    newest().tell({ type: "events", events: [event(1), event(2), event(3), event(4)] });
    newest().tell({ type: "events", events: [event(4), event(5)] });
    expect(seqs).toEqual([3, 4, 5]);
  });

  it("stops and says so when its cursor is of another log", async () => {
    const { stream, open, newest, seqs, sockets, connections, resets } = setUp(70);
    stream.start();
    await open();
    newest().tell({ type: "reset", head: 2 });
    newest().tell({ type: "events", events: [event(1), event(2)] });
    expect(resets()).toBe(1);
    expect(seqs).toEqual([]);
    expect(sockets).toHaveLength(1);
    expect(sockets[0]!.closed).toBe(true);
    expect(connections.at(-1)).toEqual({ state: "ended", because: "stopped" });
  });

  it("resumes from its cursor when a seq is missing", async () => {
    const { stream, open, newest, seqs, sockets } = setUp();
    stream.start();
    await open();
    newest().tell({ type: "synced", head: 0 });
    newest().tell({ type: "events", events: [event(1), event(3)] });
    expect(seqs).toEqual([1]);
    expect(sockets[0]!.closed).toBe(true);
    await open();
    expect(newest().sent[0]).toMatchObject({ type: "open", cursor: { after: 1 } });
  });

  it("resumes when a delta does not fit", async () => {
    const { stream, open, newest, sockets, setFits } = setUp();
    stream.start();
    await open();
    newest().tell({ type: "synced", head: 0 });
    setFits(false);
    newest().tell({ type: "deltas", deltas: [{ turn_id: "a", part_id: "p", kind: "text", offset: 9, text: "x" }] });
    await open();
    expect(sockets).toHaveLength(2);
  });

  it("does not spin when resuming never helps", async () => {
    const { stream, open, newest, sockets, setFits } = setUp();
    setFits(false);
    stream.start();
    await open();
    for (let round = 0; round < 6; round += 1) {
      newest().tell({ type: "synced", head: 0 });
      newest().tell({ type: "deltas", deltas: [{ turn_id: "a", part_id: "p", kind: "text", offset: 9, text: "x" }] });
      await vi.advanceTimersByTimeAsync(200);
      newest().onopen?.();
    }
    expect(sockets.length).toBeLessThan(5);
  });

  it("comes back for ever, with patience, and says since when it is away", async () => {
    const { stream, open, newest, sockets, connections } = setUp();
    stream.start();
    await open();
    newest().tell({ type: "synced", head: 0 });
    for (let round = 0; round < 30; round += 1) {
      newest().onclose?.({ code: 1006 });
      await vi.advanceTimersByTimeAsync(10_001);
    }
    expect(sockets).toHaveLength(31);
    const waits = connections.filter((one) => one.state === "waiting");
    expect(new Set(waits.map((one) => one.since)).size).toBe(1);
    await open();
    newest().tell({ type: "synced", head: 0 });
    expect(connections.at(-1)).toEqual({ state: "live" });
  });

  it("tries again at once when asked to", async () => {
    const { stream, open, newest, sockets } = setUp();
    stream.start();
    await open();
    for (let round = 0; round < 5; round += 1) {
      newest().onclose?.({ code: 1006 });
      await vi.advanceTimersByTimeAsync(10_001);
    }
    newest().onclose?.({ code: 1012 });
    const before = sockets.length;
    stream.retryNow();
    await vi.advanceTimersByTimeAsync(0);
    expect(sockets).toHaveLength(before + 1);
  });

  it("takes silence of 45 seconds for a lost connection, and pings meanwhile", async () => {
    const { stream, open, newest, connections } = setUp();
    stream.start();
    await open();
    newest().tell({ type: "synced", head: 0 });
    await vi.advanceTimersByTimeAsync(40_000);
    expect(newest().sent.filter((one) => one.type === "ping").length).toBe(2);
    expect(connections.at(-1)!.state).toBe("live");
    await vi.advanceTimersByTimeAsync(6_000);
    expect(connections.at(-1)!.state).not.toBe("live");
  });

  it("ends when the session is deleted or nobody is signed in", async () => {
    const deleted = setUp();
    deleted.stream.start();
    await deleted.open();
    deleted.newest().onclose?.({ code: 4404 });
    expect(deleted.connections.at(-1)).toEqual({ state: "ended", because: "deleted" });

    const out = setUp(0, () => Promise.reject(new ApiProblem(401, "not_signed_in", "You are not signed in.", "")));
    out.stream.start();
    await vi.advanceTimersByTimeAsync(0);
    expect(out.connections.at(-1)).toEqual({ state: "ended", because: "signed-out" });
  });

  it("keeps trying while the server can't give a ticket", async () => {
    let down = true;
    const { stream, sockets, connections } = setUp(0, () => (down ? Promise.reject(new TypeError("refused")) : Promise.resolve("t")));
    stream.start();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(sockets).toHaveLength(0);
    expect(["waiting", "connecting"]).toContain(connections.at(-1)!.state);
    down = false;
    await vi.advanceTimersByTimeAsync(10_001);
    expect(sockets).toHaveLength(1);
  });

  it("says what the person does on change, and again after a reconnect", async () => {
    const { stream, open, newest } = setUp();
    stream.start();
    await open();
    newest().tell({ type: "synced", head: 0 });
    stream.say({ type: "here", state: "active", typing: true });
    stream.say({ type: "here", state: "active", typing: true });
    expect(newest().sent.filter((one) => one.type === "here")).toHaveLength(1);
    newest().onclose?.({ code: 1006 });
    await vi.advanceTimersByTimeAsync(1_000);
    await open();
    newest().tell({ type: "synced", head: 0 });
    expect(newest().sent.filter((one) => one.type === "here")).toHaveLength(1);
  });

  it("is silent after it was stopped", async () => {
    const { stream, open, newest, connections, sockets } = setUp();
    stream.start();
    await open();
    stream.stop();
    const heard = connections.length;
    newest().tell({ type: "synced", head: 0 });
    await vi.advanceTimersByTimeAsync(120_000);
    expect(connections).toHaveLength(heard);
    expect(sockets).toHaveLength(1);
    expect(sockets[0]!.closed).toBe(true);
  });
});

describe("backoff", () => {
  it("doubles up to ten seconds and varies by at most a quarter", () => {
    expect([0, 1, 2, 3, 4, 5, 6, 40].map((attempt) => backoff(attempt, () => 0))).toEqual([
      300, 600, 1_200, 2_400, 4_800, 9_600, 10_000, 10_000,
    ]);
    expect(backoff(0, () => 1)).toBe(225);
  });
});
