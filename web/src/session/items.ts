/** What a timeline is made of. Every item is immutable: when something about it changes, another takes its place under the same id. */
import type { Attachment, EventOf, Person, PromptStatus, Question } from "@/api/types";

type Base = {
  /** Stays the same for the item's whole life. */
  id: string;
  /** Of the event that began it; null while it is only being written. */
  seq: number | null;
  /** ISO time; empty while it is only being written. */
  at: string;
};

export type PromptItem = Base & {
  kind: "prompt";
  promptId: string;
  author: Person;
  text: string;
  attachments: Attachment[];
  model: string;
  effort: string | null;
  status: PromptStatus;
  retryOf: string | null;
};

export type WritingItem = Base & {
  kind: "text" | "reasoning";
  text: string;
  /** Being written at this moment. */
  streaming: boolean;
  truncated: boolean;
};

export type ToolItem = Base & {
  kind: "tool";
  tool: string;
  title: string;
  input: Record<string, unknown>;
  output: string;
  state: "running" | "completed" | "failed" | "interrupted";
  durationMs: number | null;
  /** Of a command that ran to its end. */
  exitCode: number | null;
  truncated: boolean;
};

export type BootStepView = {
  step: string;
  state: "started" | "completed" | "failed";
  detail: string;
  durationMs: number | null;
  log: string;
};

export type BootItem = Base & {
  kind: "boot";
  state: "running" | "ready" | "failed" | "ended";
  steps: BootStepView[];
  checkouts: { directory: string; branch: string; sha: string; restored: boolean }[];
  agent: string;
  reason: string;
  remedy: string;
  logTail: string;
  endedAt: string | null;
};

export type CommitItem = Base & { kind: "commit"; directory: string; sha: string; subject: string; author: string };

export type PullRequestItem = Base & { kind: "pull_request"; pullRequestId: string; change: EventOf<"pull_request"> };

export type QuestionItem = Base & {
  kind: "question";
  questionId: string;
  questions: Question[];
  deadline: string;
  fallback: string;
  outcome: "open" | "answered" | "timed_out" | "dropped";
  answers: string[][];
  by: Person | null;
};

export type NoticeItem = Base & {
  kind: "notice";
  tone: "neutral" | "warning" | "danger";
  text: string;
  remedy: string;
  log: string;
};

export type FooterItem = Base & {
  kind: "footer";
  promptId: string;
  status: "completed" | "failed" | "stopped";
  reason: string;
  remedy: string;
  done: string[];
  durationMs: number;
  inputTokens: number;
  outputTokens: number;
  costUsd: number;
};

export type Item =
  | PromptItem
  | WritingItem
  | ToolItem
  | BootItem
  | CommitItem
  | PullRequestItem
  | QuestionItem
  | NoticeItem
  | FooterItem;

/** A prompt and all that came of it; the first one holds what was before any prompt. */
export type Segment = {
  /** The prompt's id; `start` for the first. */
  id: string;
  itemIds: string[];
  /** Grows when items come or go. */
  version: number;
  finished: boolean;
};
