/** Short names for what the API takes and gives. All of it is generated from the server: see `npm run api`. */
import type { components } from "./schema";

type Schemas = components["schemas"];

export type Me = Schemas["Me"];
export type User = Schemas["UserView"];
export type Role = User["role"];
export type Token = Schemas["TokenView"];
export type CreatedToken = Schemas["CreatedToken"];
export type Repository = Schemas["RepositoryView"];
export type Branch = Schemas["BranchView"];
export type PullRequest = Schemas["PullRequestView"];
export type MergeMethod = Schemas["Merge"]["method"];
export type Model = Schemas["ModelView"];
export type SessionSummary = Schemas["SessionSummary"];
export type SessionDetail = Schemas["SessionDetail"];
export type Activity = SessionSummary["activity"];
export type Prompt = Schemas["PromptView"];
export type PromptStatus = Prompt["status"];
export type NewPrompt = Schemas["NewPrompt"];
export type Sandbox = Schemas["SandboxView"];
export type Attachment = Schemas["AttachmentInfo"];
export type Person = Schemas["Person"];
export type Presence = Schemas["Presence"];
export type RepositoryDiff = Schemas["RepositoryDiff"];
export type FileDiff = Schemas["FileDiff"];
export type Todo = Schemas["Todo"];
export type Question = Schemas["Question"];
export type Problem = Schemas["Problem"];

/** One entry of a session's log. */
export type LogEvent = Schemas["Event"];
export type EventBody = LogEvent["body"];
export type EventOf<Kind extends EventBody["kind"]> = Extract<EventBody, { kind: Kind }>;
/** A piece of a part that is still being written. */
export type Delta = Schemas["Delta"];
export type Cursor = Schemas["Cursor"];
export type FromWatcher = Schemas["FromWatcher"];
export type ToWatcher = Schemas["ToWatcher"];
export type Here = Schemas["Here"];
