/** The typed client of our HTTP API. Every call has a deadline and throws `ApiProblem` when it does not succeed. */
import createClient from "openapi-fetch";
import { asProblem, problemFrom } from "./problem";
import type { paths } from "./schema";
import type { Attachment } from "./types";

const TIMEOUT_MS = 30_000;
const UPLOAD_TIMEOUT_MS = 180_000;
/** The server gives a clone half an hour; a minute more, so that its own words arrive. */
const CLONE_TIMEOUT_MS = 1_860_000;
/** Says that the request comes from our own page: no other site can make a browser send it. */
const OWN_PAGE = { "X-OpenInspect": "1" };

export const SIGNED_OUT = "openinspect:signed-out";

const within = (ms: number) => (request: Request) =>
  fetch(new Request(request, { signal: AbortSignal.any([request.signal, AbortSignal.timeout(ms)]) }));

const client = createClient<paths>({ baseUrl: "", headers: OWN_PAGE, fetch: within(TIMEOUT_MS) });

/** As the `fetch` of a call that clones a repository before it answers. */
export const whileCloning = within(CLONE_TIMEOUT_MS);

export const { GET, POST, PATCH, DELETE } = client;

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** The data of an answer, or a thrown `ApiProblem`. */
export async function given<T>(call: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await call;
  } catch (thrown) {
    throw asProblem(thrown);
  }
  if (answer.response.ok) return answer.data as T;
  if (answer.response.status === 401) window.dispatchEvent(new Event(SIGNED_OUT));
  throw problemFrom(answer.response.status, answer.error);
}

/** Uploads a picture to a session. Raises `ApiProblem`, also when it takes over three minutes. */
export async function uploadAttachment(sessionId: string, file: File): Promise<Attachment> {
  const form = new FormData();
  form.set("file", file, file.name || "picture.png");
  try {
    const response = await fetch(`/api/sessions/${encodeURIComponent(sessionId)}/attachments`, {
      method: "POST",
      headers: OWN_PAGE,
      body: form,
      signal: AbortSignal.timeout(UPLOAD_TIMEOUT_MS),
    });
    const body: unknown = await response.json().catch(() => null);
    if (!response.ok) throw problemFrom(response.status, body);
    return body as Attachment;
  } catch (thrown) {
    throw asProblem(thrown);
  }
}

export function attachmentAddress(sessionId: string, attachmentId: string): string {
  return `/api/sessions/${encodeURIComponent(sessionId)}/attachments/${encodeURIComponent(attachmentId)}`;
}
