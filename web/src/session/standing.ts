/** How a session stands: what the server told of it, kept up to date by its events. Pure: the same events give the same standing. */
import type { Activity, LogEvent, Prompt, PullRequest, Sandbox, SessionDetail } from "@/api/types";

const LIVE: readonly Sandbox["state"][] = ["requested", "booting", "ready", "stopping"];

/** A session's standing after one more event; the same object when the event is known or changes nothing of it. */
export function advance(standing: SessionDetail, event: LogEvent): SessionDetail {
  if (event.seq <= standing.head) return standing;
  const next = changed(standing, event);
  return { ...next, head: event.seq, activity: activityOf(next, waits(standing, event)), updated_at: event.at };
}

function waits(standing: SessionDetail, { body }: LogEvent): boolean {
  if (body.kind === "question.asked") return true;
  if (body.kind === "question.closed" || body.kind === "question.answered") return false;
  return standing.activity === "waiting";
}

function activityOf(standing: SessionDetail, waiting: boolean): Activity {
  const unfinished = standing.prompts.filter(isUnfinished);
  if (unfinished.length === 0) return "idle";
  if (unfinished.some((one) => one.status === "running")) return waiting ? "waiting" : "running";
  return standing.sandbox && LIVE.includes(standing.sandbox.state) ? "starting" : "queued";
}

export function isUnfinished(prompt: Prompt): boolean {
  return prompt.status === "queued" || prompt.status === "running";
}

function changed(standing: SessionDetail, { body, at }: LogEvent): SessionDetail {
  switch (body.kind) {
    case "session.titled":
      return { ...standing, title: body.title };
    case "session.archived":
      return { ...standing, status: "archived" };
    case "session.restored":
      return { ...standing, status: "active" };
    case "prompt.queued": {
      if (standing.prompts.some((one) => one.id === body.prompt_id)) return standing;
      const prompt: Prompt = {
        id: body.prompt_id,
        position: Math.max(0, ...standing.prompts.map((one) => one.position)) + 1,
        author: body.author,
        text: body.text,
        model: body.model,
        effort: body.effort,
        status: "queued",
        attachments: body.attachments,
        stop_requested: false,
        cost_usd: 0,
        input_tokens: 0,
        output_tokens: 0,
        created_at: at,
      };
      return { ...standing, prompts: [...standing.prompts, prompt] };
    }
    case "prompt.edited":
      return withPrompt(standing, body.prompt_id, { text: body.text });
    case "prompt.cancelled":
      return { ...standing, prompts: standing.prompts.filter((one) => one.id !== body.prompt_id) };
    case "turn.started":
      return withPrompt(standing, body.prompt_id, { status: "running", started_at: at, model: body.model, effort: body.effort });
    case "stop.requested":
      return withPrompt(standing, body.prompt_id, { stop_requested: true });
    case "turn.finished": {
      const next = withPrompt(standing, body.prompt_id, {
        status: body.status,
        reason: body.reason,
        remedy: body.remedy,
        cost_usd: body.cost_usd,
        input_tokens: body.input_tokens,
        output_tokens: body.output_tokens,
        finished_at: at,
      });
      return {
        ...next,
        last_outcome: body.status,
        prompts: next.prompts.filter((one) => isUnfinished(one) || one.id === body.prompt_id),
      };
    }
    case "sandbox.changed": {
      const known = standing.sandbox?.id === body.sandbox_id ? standing.sandbox : null;
      const sandbox: Sandbox = {
        agent: null,
        boot_step: null,
        connected: false,
        created_at: at,
        ...known,
        id: body.sandbox_id,
        state: body.state,
        reason: body.reason,
        remedy: body.remedy,
        ready_at: body.state === "ready" ? at : (known?.ready_at ?? null),
      };
      return { ...standing, sandbox };
    }
    case "boot.step":
      return standing.sandbox && body.state === "started" ? { ...standing, sandbox: { ...standing.sandbox, boot_step: body.step } } : standing;
    case "agent.restarted":
      return standing.sandbox ? { ...standing, sandbox: { ...standing.sandbox, agent: "restarting" } } : standing;
    case "sandbox.ready":
      return standing.sandbox ? { ...standing, sandbox: { ...standing.sandbox, connected: true } } : standing;
    case "model.called":
      return { ...standing, cost_usd: standing.cost_usd + (body.cost_usd ?? 0) };
    case "pull_request":
      return {
        ...standing,
        pull_requests: standing.pull_requests.map((one): PullRequest =>
          one.id === body.pull_request_id ? { ...one, state: body.state, draft: body.draft, title: body.title } : one,
        ),
      };
    default:
      return standing;
  }
}

function withPrompt(standing: SessionDetail, id: string, change: Partial<Prompt>): SessionDetail {
  return { ...standing, prompts: standing.prompts.map((one) => (one.id === id ? { ...one, ...change } : one)) };
}
