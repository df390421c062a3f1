/**
 * The fold of a session's log: events go in, in order; the items of a timeline come out.
 *
 * It does no I/O and asks no clock, so that the same events always give the same items. The work per event does not depend on how many there
 * were before. What is still being written (deltas) stands in `open` until the whole part's event takes its place.
 */
import type { Attachment, Delta, EventOf, LogEvent, Person, PromptStatus, Todo } from "@/api/types";
import { withLog, withStep } from "./boot-steps";
import { codePoints, skipCodePoints } from "./code-points";
import type { BootItem, FooterItem, Item, NoticeItem, PromptItem, Segment, ToolItem, WritingItem } from "./items";

export type OpenPart = { partId: string; turnId: string; kind: "text" | "reasoning"; text: string; length: number };

type KnownPrompt = {
  author: Person;
  text: string;
  attachments: Attachment[];
  model: string;
  effort: string | null;
  retryOf: string | null;
  seq: number;
  at: string;
};

export class Timeline {
  readonly items = new Map<string, Item>();
  readonly segments: Segment[] = [{ id: "start", itemIds: [], version: 0, finished: true }];
  readonly open = new Map<string, OpenPart>();
  todos: Todo[] = [];
  /** Ids of items that have changed since `taken` was last called. */
  private touched = new Set<string>();
  /** Grows when items come or go. */
  structure = 0;
  runningTurn: string | null = null;
  private readonly prompts = new Map<string, KnownPrompt>();
  private readonly waiting: string[] = [];
  private boot: string | null = null;
  private readonly turnTools = new Set<string>();

  static of(events: readonly LogEvent[]): Timeline {
    const timeline = new Timeline();
    for (const event of events) timeline.add(event);
    return timeline;
  }

  /** The ids of the items that have changed since the last call. */
  taken(): Set<string> {
    const touched = this.touched;
    this.touched = new Set();
    return touched;
  }

  /** Code points of each part that is being written. */
  partLengths(): Record<string, number> {
    return Object.fromEntries([...this.open.values()].map((part) => [part.partId, part.length]));
  }

  /** False: the piece begins beyond what is there, so something is missing. */
  write(delta: Delta): boolean {
    const known = this.open.get(delta.part_id);
    if (!known && this.items.has(delta.part_id)) return true; // the whole part is there already
    const have = known?.length ?? 0;
    if (delta.offset > have) return false;
    const fresh = delta.offset === have ? delta.text : skipCodePoints(delta.text, have - delta.offset);
    if (!fresh && known) return true;
    const part: OpenPart = {
      partId: delta.part_id,
      turnId: delta.turn_id,
      kind: delta.kind,
      text: (known?.text ?? "") + fresh,
      length: have + codePoints(fresh),
    };
    this.showOpen(part);
    return true;
  }

  /** Takes over what another timeline has of unfinished parts. */
  adoptOpen(other: Timeline): void {
    for (const part of other.open.values()) if (!this.items.has(part.partId)) this.showOpen(part);
  }

  add(event: LogEvent): void {
    const { body, seq, at } = event;
    const base = { seq, at };
    switch (body.kind) {
      case "prompt.queued":
        this.prompts.set(body.prompt_id, {
          author: body.author,
          text: body.text,
          attachments: body.attachments,
          model: body.model,
          effort: body.effort,
          retryOf: body.retry_of ?? null,
          ...base,
        });
        this.waiting.push(body.prompt_id);
        // The next in line is shown at once, so that what its sandbox does stands below it.
        if (this.runningTurn === null && this.waiting.length === 1) this.placePrompt(body.prompt_id, "queued", event);
        return;
      case "prompt.edited": {
        const known = this.prompts.get(body.prompt_id);
        if (known) known.text = body.text;
        this.changePrompt(body.prompt_id, (item) => ({ ...item, text: body.text }));
        return;
      }
      case "prompt.cancelled":
        this.noLongerWaiting(body.prompt_id);
        this.changePrompt(body.prompt_id, (item) => ({ ...item, status: "cancelled" }));
        this.closeSegment(body.prompt_id);
        return;
      case "turn.started":
        this.noLongerWaiting(body.prompt_id);
        this.runningTurn = body.prompt_id;
        this.turnTools.clear();
        this.placePrompt(body.prompt_id, "running", event);
        this.changePrompt(body.prompt_id, (item) => ({ ...item, status: "running", model: body.model, effort: body.effort }));
        return;
      case "turn.finished":
        this.finishTurn(body, event);
        return;
      case "stop.requested":
        return this.notice(event, "neutral", `${body.by.name} asked to stop`);
      case "text":
      case "reasoning":
        this.open.delete(body.part_id);
        this.toItsPlace(body.part_id);
        this.put({
          id: body.part_id,
          kind: body.kind,
          text: body.text,
          streaming: false,
          truncated: body.truncated,
          ...base,
        } satisfies WritingItem);
        return;
      case "tool.started":
        if (body.tool === "question" || this.items.has(body.call_id)) return; // a question is an item of its own
        this.turnTools.add(body.call_id);
        this.put({
          id: body.call_id,
          kind: "tool",
          tool: body.tool,
          title: "",
          input: body.input ?? {},
          output: "",
          state: "running",
          durationMs: null,
          exitCode: null,
          truncated: body.truncated,
          ...base,
        } satisfies ToolItem);
        return;
      case "tool.finished": {
        if (body.tool === "question" && body.state === "completed") return;
        this.turnTools.delete(body.call_id);
        const begun = this.items.get(body.call_id);
        this.put({
          id: body.call_id,
          kind: "tool",
          tool: body.tool,
          title: body.title,
          input: body.input ?? {},
          output: body.output,
          state: body.state,
          durationMs: body.duration_ms ?? null,
          exitCode: body.exit_code ?? null,
          truncated: body.truncated,
          seq: begun?.seq ?? seq,
          at: begun?.at || at,
        } satisfies ToolItem);
        return;
      }
      case "todos":
        this.todos = body.items;
        return;
      case "commit":
        this.put({ id: `e${seq}`, kind: "commit", directory: body.directory, sha: body.sha, subject: body.subject, author: body.author, ...base });
        return;
      case "pull_request":
        this.pullRequest(body, event);
        return;
      case "question.asked":
        this.put({
          id: `question:${body.question_id}`,
          kind: "question",
          questionId: body.question_id,
          questions: body.questions,
          deadline: body.deadline,
          fallback: body.default,
          outcome: "open",
          answers: [],
          by: null,
          ...base,
        });
        return;
      case "question.answered":
        this.change(`question:${body.question_id}`, (item) =>
          item.kind === "question" ? { ...item, outcome: "answered", answers: body.answers, by: body.by } : item,
        );
        return;
      case "question.closed":
        this.change(`question:${body.question_id}`, (item) => (item.kind === "question" ? { ...item, outcome: body.outcome } : item));
        return;
      case "sandbox.changed":
        return this.sandbox(body, event);
      case "boot.step":
        return this.changeBoot(event, (boot) => ({ ...boot, steps: withStep(boot.steps, body) }));
      case "boot.log":
        return this.changeBoot(event, (boot) => ({ ...boot, steps: withLog(boot.steps, body) }));
      case "checked_out":
        return this.changeBoot(event, (boot) => ({
          ...boot,
          checkouts: [...boot.checkouts, { directory: body.directory, branch: body.branch, sha: body.base_sha, restored: body.restored }],
        }));
      case "sandbox.ready":
        this.changeBoot(event, (boot) => ({ ...boot, state: "ready", agent: body.agent, endedAt: boot.endedAt ?? at }));
        return;
      case "sandbox.failed":
        this.changeBoot(event, (boot) => ({
          ...boot,
          state: "failed",
          reason: body.reason,
          remedy: body.remedy,
          logTail: body.log_tail,
          endedAt: at,
        }));
        return;
      case "agent.restarted":
        return this.notice(event, "warning", `The agent was restarted (attempt ${body.attempt}): ${body.reason}`, "", body.log_tail);
      case "turn.resumed":
        return this.notice(event, "warning", `The turn goes on: ${body.reason}`, "A model call may have been made twice.");
      case "context.compacted":
        return this.notice(event, "neutral", "The agent summed up the conversation so far to make room");
      case "warning":
        return this.notice(event, "warning", body.message, body.remedy);
      case "git.refused":
        return this.notice(event, "warning", `A push to ${shortRef(body.ref)} of ${body.directory} was refused: ${body.reason}`);
      case "git.pushed":
        return this.notice(
          event,
          "neutral",
          body.new_sha === null ? `Deleted ${shortRef(body.ref)}` : `Pushed ${body.new_sha.slice(0, 7)} to ${shortRef(body.ref)}`,
        );
      case "model.called":
        if (body.error) this.notice(event, "warning", `A call of ${body.provider}/${body.model} failed: ${body.error}`);
        return;
      case "session.archived":
        return this.notice(event, "neutral", `${body.by.name} archived the session`);
      case "session.restored":
        return this.notice(event, "neutral", `${body.by.name} restored the session`);
      case "session.created":
      case "session.titled":
      case "step.finished":
      case "diff":
        return;
    }
  }

  // ── prompts and turns ───────────────────────────────────────────────────────────────────────────
  private placePrompt(promptId: string, status: PromptStatus, event: LogEvent): void {
    const id = `prompt:${promptId}`;
    if (this.items.has(id)) return;
    const known = this.prompts.get(promptId);
    this.segments.push({ id: promptId, itemIds: [], version: 0, finished: false });
    if (!known) return; // it was queued before what we have of the log
    const { seq, at, ...rest } = known;
    this.put({ id, kind: "prompt", promptId, status, seq, at: status === "queued" ? at : event.at, ...rest } satisfies PromptItem);
  }

  private changePrompt(promptId: string, how: (item: PromptItem) => PromptItem): void {
    this.change(`prompt:${promptId}`, (item) => (item.kind === "prompt" ? how(item) : item));
  }

  private noLongerWaiting(promptId: string): void {
    const at = this.waiting.indexOf(promptId);
    if (at >= 0) this.waiting.splice(at, 1);
  }

  private finishTurn(body: EventOf<"turn.finished">, event: LogEvent): void {
    this.noLongerWaiting(body.prompt_id);
    if (this.runningTurn === body.prompt_id) this.runningTurn = null;
    for (const part of this.open.values()) {
      if (part.turnId !== body.prompt_id) continue;
      this.open.delete(part.partId);
      this.change(part.partId, (item) => (item.kind === "text" || item.kind === "reasoning" ? { ...item, streaming: false, truncated: true } : item));
    }
    for (const callId of this.turnTools) {
      this.change(callId, (item) => (item.kind === "tool" && item.state === "running" ? { ...item, state: "interrupted" } : item));
    }
    this.turnTools.clear();
    this.changePrompt(body.prompt_id, (item) => ({ ...item, status: body.status }));
    this.put({
      id: `footer:${body.prompt_id}`,
      kind: "footer",
      promptId: body.prompt_id,
      status: body.status,
      reason: body.reason,
      remedy: body.remedy,
      done: body.done,
      durationMs: body.duration_ms,
      inputTokens: body.input_tokens,
      outputTokens: body.output_tokens,
      costUsd: body.cost_usd,
      seq: event.seq,
      at: event.at,
    } satisfies FooterItem);
    this.closeSegment(body.prompt_id);
  }

  private closeSegment(id: string): void {
    const segment = this.segments.findLast((one) => one.id === id);
    if (!segment || segment.finished) return;
    segment.finished = true;
    segment.version += 1;
    this.structure += 1;
  }

  // ── the sandbox ─────────────────────────────────────────────────────────────────────────────────
  private sandbox(body: EventOf<"sandbox.changed">, event: LogEvent): void {
    switch (body.state) {
      case "requested":
      case "booting":
        if (this.boot !== `boot:${body.sandbox_id}`) this.beginBoot(`boot:${body.sandbox_id}`, event);
        return;
      case "ready":
        if (this.boot !== null) {
          this.changeBoot(event, (boot) => ({ ...boot, state: "ready", endedAt: boot.endedAt ?? event.at }));
          this.boot = null;
        }
        return;
      case "failed":
      case "lost": {
        const boot = this.boot;
        this.boot = null;
        if (boot !== null) {
          this.change(boot, (item) =>
            item.kind === "boot"
              ? { ...item, state: "failed", reason: item.reason || body.reason, remedy: item.remedy || body.remedy, endedAt: event.at }
              : item,
          );
          return;
        }
        return this.notice(event, "danger", body.reason || `The sandbox ${body.state === "lost" ? "was lost" : "failed"}`, body.remedy);
      }
      case "stopping":
        return;
      case "stopped": {
        const boot = this.boot;
        this.boot = null;
        if (boot !== null) this.change(boot, (item) => (item.kind === "boot" ? { ...item, state: "ended", reason: body.reason, endedAt: event.at } : item));
        else this.notice(event, "neutral", body.reason || "The sandbox was stopped");
        return;
      }
    }
  }

  private beginBoot(id: string, event: LogEvent): void {
    this.boot = id;
    if (this.items.has(id)) return;
    this.put({
      id,
      kind: "boot",
      state: "running",
      steps: [],
      checkouts: [],
      agent: "",
      reason: "",
      remedy: "",
      logTail: "",
      endedAt: null,
      seq: event.seq,
      at: event.at,
    } satisfies BootItem);
  }

  private changeBoot(event: LogEvent, how: (boot: BootItem) => BootItem): void {
    if (this.boot === null) this.beginBoot(`boot:${event.seq}`, event);
    this.change(this.boot!, (item) => (item.kind === "boot" ? how(item) : item));
  }

  // ── the rest ────────────────────────────────────────────────────────────────────────────────────
  private pullRequest(body: EventOf<"pull_request">, event: LogEvent): void {
    const id = `pull:${body.pull_request_id}`;
    const base = { seq: event.seq, at: event.at };
    const known = this.items.get(id);
    if (!known) {
      this.put({ id, kind: "pull_request", pullRequestId: body.pull_request_id, change: body, ...base });
      return;
    }
    this.change(id, (item) => (item.kind === "pull_request" ? { ...item, change: body } : item));
    if (body.change !== "opened") this.notice(event, "neutral", `${body.by.name} ${body.change} pull request #${body.number}`);
  }

  private notice(event: LogEvent, tone: NoticeItem["tone"], text: string, remedy = "", log = ""): void {
    this.put({ id: `e${event.seq}`, kind: "notice", tone, text, remedy, log, seq: event.seq, at: event.at } satisfies NoticeItem);
  }

  private showOpen(part: OpenPart): void {
    this.open.set(part.partId, part);
    this.put({ id: part.partId, kind: part.kind, text: part.text, streaming: true, truncated: false, seq: null, at: "" } satisfies WritingItem);
  }

  /** A part stands where its event does: when others were logged while it was being written, it comes after them. */
  private toItsPlace(id: string): void {
    const segment = this.segments.at(-1)!;
    const at = segment.itemIds.indexOf(id);
    if (at < 0 || segment.itemIds.slice(at + 1).every((later) => this.items.get(later)?.seq === null)) return;
    segment.itemIds.splice(at, 1);
    this.items.delete(id);
  }

  private put(item: Item): void {
    if (!this.items.has(item.id)) {
      const segment = this.segments.at(-1)!;
      segment.itemIds.push(item.id);
      segment.version += 1;
      this.structure += 1;
    }
    this.items.set(item.id, item);
    this.touched.add(item.id);
  }

  private change(id: string, how: (item: Item) => Item): void {
    const item = this.items.get(id);
    if (!item) return;
    this.items.set(id, how(item));
    this.touched.add(id);
  }
}

function shortRef(ref: string): string {
  return ref.replace(/^refs\/(heads|tags)\//, "");
}
