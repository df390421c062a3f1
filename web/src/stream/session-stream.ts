/**
 * The live stream of one session. It connects from a cursor, gives every event exactly once and in order, and when the connection is
 * lost it comes back from where it was, for ever.
 *
 *     idle ──start──▶ connecting ──synced──▶ live
 *                        ▲  │                 │
 *                        │  └──── lost ───────┤
 *                        └───── waiting ◀─────┘        ended: the session was deleted, or nobody is signed in
 *
 * Silence of 45 s counts as lost; we say something every 15 s ourselves. A seq that leaves a gap or a delta that begins beyond what we have
 * makes the stream resume from its cursor: the truth is the log, never the socket. A log that ends before our cursor is another one
 * (the server's database was put back): the stream stops, and whoever started it loads the session anew.
 */
import { ApiProblem } from "@/api/problem";
import type { Delta, FromWatcher, Here, LogEvent, Presence, ToWatcher } from "@/api/types";
import { backoff } from "./backoff";

const PING_MS = 15_000;
const SILENCE_MS = 45_000;
const OPEN_MS = 15_000;
const STEADY_MS = 3_000;

export type Connection =
  /** `again`: after it was lost. */
  | { state: "connecting"; again: boolean }
  | { state: "live" }
  /** `since` and `retryAt` are milliseconds of the epoch. */
  | { state: "waiting"; since: number; retryAt: number; attempt: number }
  | { state: "ended"; because: "deleted" | "signed-out" | "stopped" };

export type StreamHandlers = {
  /** Events that follow each other without a gap, each once. */
  onEvents(events: LogEvent[]): void;
  /** False: a piece does not fit to what is there, so the stream has to resume. */
  onDeltas(deltas: Delta[]): boolean;
  onPresence(people: Presence[]): void;
  onConnection(connection: Connection): void;
  /** What we have is not of this log. The stream has stopped. */
  onReset(): void;
  /** Code points that we have of each part that is being written. */
  parts(): Record<string, number>;
};

export type Socket = Pick<WebSocket, "send" | "close" | "onopen" | "onmessage" | "onclose">;

export type StreamOptions = {
  /** Seq of the newest event that we have. */
  after: number;
  /** A fresh ticket for one connection. Raises `ApiProblem`. */
  ticket(): Promise<string>;
  connect(): Socket;
  now?(): number;
};

export class SessionStream {
  private after: number;
  private connection: Connection = { state: "ended", because: "stopped" };
  private socket: Socket | null = null;
  private attempt = 0;
  private lostAt: number | null = null;
  private liveAt: number | null = null;
  private heardAt = 0;
  private saidAt = 0;
  private here: Here | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private beat: ReturnType<typeof setInterval> | undefined;
  private run = 0;
  private readonly now: () => number;

  constructor(
    private readonly options: StreamOptions,
    private readonly handlers: StreamHandlers,
  ) {
    this.after = options.after;
    this.now = options.now ?? Date.now;
  }

  start(): void {
    if (this.connection.state !== "ended" || this.connection.because !== "stopped") return;
    void this.open();
  }

  stop(): void {
    this.drop();
    clearTimeout(this.timer);
    if (this.connection.state !== "ended") this.become({ state: "ended", because: "stopped" });
  }

  /** Tries again at once, when it is waiting: the network is back, the tab is looked at, or somebody asked. */
  retryNow(): void {
    if (this.connection.state !== "waiting") return;
    clearTimeout(this.timer);
    void this.open();
  }

  /** What the person is doing; sent on change and again after each reconnect. */
  say(here: Here): void {
    if (this.here && this.here.state === here.state && this.here.typing === here.typing) return;
    this.here = here;
    if (this.connection.state === "live") this.send(here);
  }

  private async open(): Promise<void> {
    const run = ++this.run;
    this.become({ state: "connecting", again: this.lostAt !== null });
    let ticket: string;
    try {
      ticket = await this.options.ticket();
    } catch (thrown) {
      if (run !== this.run) return;
      if (thrown instanceof ApiProblem && thrown.status === 401) return this.end("signed-out");
      if (thrown instanceof ApiProblem && thrown.status === 404) return this.end("deleted");
      return this.lost();
    }
    if (run !== this.run) return;
    const socket = this.options.connect();
    this.socket = socket;
    this.heardAt = this.now();
    socket.onopen = () => {
      if (run !== this.run) return;
      this.send({ type: "open", ticket, cursor: { after: this.after, parts: this.handlers.parts() } });
    };
    socket.onmessage = (message) => {
      if (run === this.run) this.hear(message.data);
    };
    socket.onclose = ({ code }) => {
      if (run !== this.run) return;
      if (code === 4404) return this.end("deleted");
      this.lost();
    };
    this.beat = setInterval(() => this.tick(), 1_000);
  }

  private tick(): void {
    const silence = this.now() - this.heardAt;
    if (silence > (this.connection.state === "live" ? SILENCE_MS : OPEN_MS)) return this.lost();
    if (this.connection.state === "live" && this.now() - this.saidAt >= PING_MS) this.send({ type: "ping" });
  }

  private hear(data: unknown): void {
    this.heardAt = this.now();
    let message: ToWatcher;
    try {
      message = JSON.parse(String(data)) as ToWatcher;
    } catch {
      return this.lost();
    }
    switch (message.type) {
      case "events":
        return this.take(message.events);
      case "deltas":
        if (!this.handlers.onDeltas(message.deltas)) this.resume();
        return;
      case "synced":
        this.liveAt = this.now();
        this.lostAt = null;
        this.become({ state: "live" });
        if (this.here) this.send(this.here);
        return;
      case "reset":
        this.stop();
        return this.handlers.onReset();
      case "presence":
        return this.handlers.onPresence(message.people);
      case "resume":
        return this.resume();
      case "ping":
        return;
    }
  }

  private take(events: LogEvent[]): void {
    const fresh: LogEvent[] = [];
    let gap = false;
    for (const event of events) {
      if (event.seq <= this.after) continue;
      if (event.seq !== this.after + 1) {
        gap = true;
        break;
      }
      this.after = event.seq;
      fresh.push(event);
    }
    if (fresh.length > 0) this.handlers.onEvents(fresh);
    if (gap) this.resume();
  }

  private send(message: FromWatcher): void {
    this.saidAt = this.now();
    try {
      this.socket?.send(JSON.stringify(message));
    } catch {
      this.lost();
    }
  }

  /** Comes back from the cursor, at once the first time and with growing patience after that. */
  private resume(): void {
    this.drop();
    this.count();
    if (this.attempt === 1) void this.open();
    else this.wait();
  }

  private lost(): void {
    this.drop();
    this.count();
    this.wait();
  }

  /** A connection that lasted counts as a success; one that broke at once does not, so that patience grows. */
  private count(): void {
    const lasted = this.liveAt !== null && this.now() - this.liveAt >= STEADY_MS;
    this.liveAt = null;
    this.attempt = lasted ? 1 : this.attempt + 1;
  }

  private wait(): void {
    const delay = backoff(this.attempt - 1);
    this.lostAt ??= this.now();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.open(), delay);
    this.become({ state: "waiting", since: this.lostAt, retryAt: this.now() + delay, attempt: this.attempt });
  }

  private end(because: "deleted" | "signed-out"): void {
    this.drop();
    this.become({ state: "ended", because });
  }

  private drop(): void {
    this.run += 1;
    clearInterval(this.beat);
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  private become(connection: Connection): void {
    this.connection = connection;
    this.handlers.onConnection(connection);
  }
}
