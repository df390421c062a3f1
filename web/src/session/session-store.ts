/**
 * One session as the page has it: a window of its log folded to a timeline, how it stands, who else is here, and the stream that keeps all
 * of it current. Everything that shows a session reads it from here.
 *
 * The window begins with the newest page of the log; older pages are fetched when somebody scrolls up. It is bounded: what is long past is
 * dropped again and fetched anew when it is wanted.
 */
import { GET, POST, given } from "@/api/client";
import { ApiProblem, asProblem } from "@/api/problem";
import { diffQuery, pullRequestQuery, queries } from "@/api/queries";
import { requestKey } from "@/api/request-key";
import type { Here, LogEvent, NewPrompt, Presence, SessionDetail } from "@/api/types";
import { type Connection, SessionStream } from "@/stream/session-stream";
import { type Row, RowBuilder } from "./rows";
import { advance } from "./standing";
import { Timeline } from "./timeline";
import { forget, keep, unsent } from "./unsent";

const FIRST_PAGE = 400;
const OLDER_PAGE = 1_000;
const MAX_EVENTS = 24_000;
const KEPT_EVENTS = 16_000;
/** Characters of text in the window. */
const MAX_WEIGHT = 48_000_000;
/** Between two tellings of what has changed: about what an eye can follow; and while nobody can see the page. */
const FLUSH_MS = 33;
const HIDDEN_FLUSH_MS = 300;

const LEFT = new ApiProblem(0, "unsent", "The page was left before the server answered.", "Sent again, it never counts twice.");

/** A prompt on its way to the server: shown at once, and kept with its key until the server has it, also when the page is left. */
export type Outgoing = { key: string; body: NewPrompt; problem: ApiProblem | null };

export type SessionView = {
  state: "loading" | "ready" | "failed";
  problem: ApiProblem | null;
  standing: SessionDetail | null;
  rows: Row[];
  connection: Connection;
  people: Presence[];
  hasOlder: boolean;
  loadingOlder: boolean;
  olderProblem: ApiProblem | null;
  outgoing: Outgoing[];
};

export class SessionStore {
  view: SessionView = {
    state: "loading",
    problem: null,
    standing: null,
    rows: [],
    connection: { state: "connecting", again: false },
    people: [],
    hasOlder: false,
    loadingOlder: false,
    olderProblem: null,
    outgoing: [],
  };
  timeline = new Timeline();
  /** Whether somebody looks at the newest: then what is long past may go. */
  following = true;
  private events: LogEvent[] = [];
  private weight = 0;
  private folded = new Set<string>();
  private known = new Set<string>();
  private readonly builder = new RowBuilder();
  private built = -1;
  private stream: SessionStream | null = null;
  private readonly listeners = new Set<() => void>();
  private flush: ReturnType<typeof setTimeout> | undefined;
  private toldAt = 0;
  private refresh: ReturnType<typeof setTimeout> | undefined;
  private closed = false;

  constructor(readonly id: string) {
    this.view.outgoing = unsent(id).map((one) => ({ ...one, problem: LEFT }));
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  // ── loading ─────────────────────────────────────────────────────────────────────────────────────
  async start(): Promise<void> {
    this.closed = false;
    try {
      const path = { session_id: this.id };
      const [standing, page] = await Promise.all([
        given(GET("/api/sessions/{session_id}", { params: { path } })),
        given(GET("/api/sessions/{session_id}/events", { params: { path, query: { limit: FIRST_PAGE } } })),
      ]);
      if (this.closed) return;
      this.events = page.events;
      this.weigh();
      this.refold();
      this.view = { ...this.view, state: "ready", problem: null, standing: this.caughtUp(standing), hasOlder: page.more };
      this.openStream(page.events.at(-1)?.seq ?? 0);
      this.tell();
    } catch (thrown) {
      if (this.closed) return;
      this.view = { ...this.view, state: "failed", problem: asProblem(thrown) };
      this.tell();
    }
  }

  stop(): void {
    this.closed = true;
    this.stream?.stop();
    this.stream = null;
    clearTimeout(this.flush);
    this.flush = undefined;
    clearTimeout(this.refresh);
  }

  /** Fetches the page before the oldest event that is here. */
  async loadOlder(): Promise<void> {
    if (!this.view.hasOlder || this.view.loadingOlder) return;
    this.set({ loadingOlder: true, olderProblem: null });
    try {
      const before = this.events[0]?.seq;
      const page = await given(
        GET("/api/sessions/{session_id}/events", {
          params: { path: { session_id: this.id }, query: { before: before ?? null, limit: OLDER_PAGE } },
        }),
      );
      if (this.closed) return;
      this.events = [...page.events, ...this.events];
      this.weigh();
      this.refold();
      this.set({ hasOlder: page.more, loadingOlder: false });
    } catch (thrown) {
      this.set({ loadingOlder: false, olderProblem: asProblem(thrown) });
    }
  }

  /** Brings the event into the window and unfolds its turn. Gives the key of the row that shows it, or null when the log has no such event. */
  async reveal(seq: number): Promise<string | null> {
    for (let page = 0; page < MAX_EVENTS / OLDER_PAGE; page += 1) {
      const oldest = this.events[0]?.seq ?? 0;
      if (oldest <= seq || !this.view.hasOlder || this.view.olderProblem) break;
      // Older pages build on each other: each begins where the one before ended.
      await this.loadOlder();
    }
    for (const segment of this.timeline.segments.toReversed()) {
      const id = segment.itemIds.findLast((one) => {
        const at = this.timeline.items.get(one)?.seq;
        return at !== null && at !== undefined && at <= seq;
      });
      if (id === undefined) continue;
      if (this.folded.delete(segment.id)) this.rebuild();
      return id;
    }
    return null;
  }

  toggle(segmentId: string): void {
    if (!this.folded.delete(segmentId)) this.folded.add(segmentId);
    this.rebuild();
  }

  // ── prompting ───────────────────────────────────────────────────────────────────────────────────
  /** Sends a prompt: it is shown at once, and sent again under the same key when the answer got lost. */
  async send(body: NewPrompt): Promise<void> {
    const key = body.client_request_id ?? requestKey();
    const outgoing: Outgoing = { key, body: { ...body, client_request_id: key }, problem: null };
    keep(this.id, { key, body: outgoing.body });
    this.set({ outgoing: [...this.view.outgoing, outgoing] });
    await this.post(outgoing);
  }

  async sendAgain(key: string): Promise<void> {
    const outgoing = this.view.outgoing.find((one) => one.key === key);
    if (!outgoing) return;
    this.change(key, { problem: null });
    await this.post(outgoing);
  }

  discard(key: string): void {
    forget(key);
    this.set({ outgoing: this.view.outgoing.filter((one) => one.key !== key) });
  }

  private async post(outgoing: Outgoing): Promise<void> {
    try {
      const prompt = await given(
        POST("/api/sessions/{session_id}/prompts", { params: { path: { session_id: this.id } }, body: outgoing.body }),
      );
      const { standing } = this.view;
      this.discard(outgoing.key);
      if (standing && !standing.prompts.some((one) => one.id === prompt.id) && !this.timeline.items.has(`prompt:${prompt.id}`)) {
        this.set({ standing: { ...standing, prompts: [...standing.prompts, prompt] } });
      }
    } catch (thrown) {
      this.change(outgoing.key, { problem: asProblem(thrown) });
    }
  }

  private change(key: string, change: Partial<Outgoing>): void {
    this.set({ outgoing: this.view.outgoing.map((one) => (one.key === key ? { ...one, ...change } : one)) });
  }

  // ── the stream ──────────────────────────────────────────────────────────────────────────────────
  say(here: Here): void {
    this.stream?.say(here);
  }

  reconnect = (): void => this.stream?.retryNow();

  private openStream(after: number): void {
    this.stream = new SessionStream(
      {
        after,
        ticket: async () => (await given(POST("/api/sessions/{session_id}/stream-ticket", { params: { path: { session_id: this.id } } }))).ticket,
        connect: () => new WebSocket(`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/api/stream`),
      },
      {
        onEvents: (events) => this.take(events),
        onDeltas: (deltas) => {
          const fits = deltas.every((delta) => this.timeline.write(delta));
          this.schedule();
          return fits;
        },
        onPresence: (people) => this.set({ people }),
        onConnection: (connection) => this.set({ connection }),
        onReset: () => this.beginAnew(),
        parts: () => this.timeline.partLengths(),
      },
    );
    this.stream.start();
  }

  /** The server's log is not the one that we have: a backup was restored. */
  private beginAnew(): void {
    this.stop();
    this.timeline = new Timeline();
    this.folded.clear();
    this.known.clear();
    void queries.invalidateQueries();
    void this.start();
  }

  private take(events: LogEvent[]): void {
    let standing = this.view.standing;
    for (const event of events) {
      this.timeline.add(event);
      this.events.push(event);
      this.weight += weightOf(event);
      if (standing) standing = advance(standing, event);
      this.consider(event);
    }
    this.view = { ...this.view, standing };
    if (this.events.length > MAX_EVENTS || this.weight > MAX_WEIGHT) this.trim();
    this.schedule();
  }

  /** What else an event makes stale. */
  private consider({ body }: LogEvent): void {
    switch (body.kind) {
      case "diff":
        void queries.invalidateQueries({ queryKey: diffQuery(this.id).queryKey });
        return;
      case "pull_request":
        void queries.invalidateQueries({ queryKey: pullRequestQuery(body.pull_request_id).queryKey });
        void queries.invalidateQueries({ queryKey: ["sessions"] });
        return this.askAgain();
      case "turn.finished":
      case "sandbox.changed":
      case "sandbox.ready":
      case "agent.restarted":
      case "turn.resumed":
        return this.askAgain();
    }
  }

  /** Asks how the session stands: for what no event tells, such as whether the sandbox is connected. */
  private askAgain(): void {
    clearTimeout(this.refresh);
    this.refresh = setTimeout(() => {
      given(GET("/api/sessions/{session_id}", { params: { path: { session_id: this.id } } })).then(
        (standing) => !this.closed && this.set({ standing: this.caughtUp(standing) }),
        () => undefined, // the next event asks again; the stream says when the server is away
      );
    }, 250);
  }

  private caughtUp(standing: SessionDetail): SessionDetail {
    let next = standing;
    const from = this.events.findLastIndex((event) => event.seq <= standing.head) + 1;
    for (const event of this.events.slice(from)) next = advance(next, event);
    return next;
  }

  // ── the window ──────────────────────────────────────────────────────────────────────────────────
  private weigh(): void {
    this.weight = 0;
    for (const event of this.events) this.weight += weightOf(event);
  }

  private trim(): void {
    if (!this.following && this.events.length < MAX_EVENTS * 2 && this.weight < MAX_WEIGHT * 2) return;
    let drop = Math.max(0, this.events.length - KEPT_EVENTS);
    let weight = this.weight;
    for (let at = 0; at < this.events.length; at += 1) {
      if (at >= drop && weight <= MAX_WEIGHT / 2) break;
      weight -= weightOf(this.events[at]!);
      drop = Math.max(drop, at + 1);
    }
    this.events = this.events.slice(drop);
    this.weigh();
    this.refold();
    this.view = { ...this.view, hasOlder: true };
  }

  private refold(): void {
    const before = this.timeline;
    const timeline = Timeline.of(this.events);
    timeline.adoptOpen(before);
    if (timeline.todos.length === 0) timeline.todos = before.todos;
    this.timeline = timeline;
    // What was finished before somebody came begins folded; what they have watched stays as it is.
    for (const segment of timeline.segments.slice(0, -1)) {
      if (segment.finished && !this.known.has(segment.id)) this.folded.add(segment.id);
    }
    for (const segment of timeline.segments) this.known.add(segment.id);
    this.builder.forget();
    this.rebuild();
  }

  private rebuild(): void {
    for (const segment of this.timeline.segments) this.known.add(segment.id);
    this.built = this.timeline.structure;
    this.set({ rows: this.builder.build(this.timeline, this.folded) });
  }

  // ── telling ─────────────────────────────────────────────────────────────────────────────────────
  private set(change: Partial<SessionView>): void {
    this.view = { ...this.view, ...change };
    this.schedule();
  }

  /** Listeners hear at most thirty times a second, and seldom while nobody can see the page. */
  private schedule(): void {
    const gap = document.hidden ? HIDDEN_FLUSH_MS : FLUSH_MS;
    this.flush ??= setTimeout(
      () => {
        this.flush = undefined;
        this.tell();
      },
      Math.max(0, this.toldAt + gap - performance.now()),
    );
  }

  private tell(): void {
    this.toldAt = performance.now();
    if (this.built !== this.timeline.structure) {
      for (const segment of this.timeline.segments) this.known.add(segment.id);
      this.built = this.timeline.structure;
      this.view = { ...this.view, rows: this.builder.build(this.timeline, this.folded) };
    }
    for (const listener of this.listeners) listener();
  }
}

function weightOf({ body }: LogEvent): number {
  switch (body.kind) {
    case "text":
    case "reasoning":
    case "boot.log":
      return 200 + body.text.length;
    case "tool.finished":
      return 400 + body.output.length * 2;
    case "prompt.queued":
      return 200 + body.text.length;
    default:
      return 200;
  }
}
