/** What went wrong, for a person: what happened and what to do about it. Thrown by every call of the API. */
export class ApiProblem extends Error {
  override readonly name = "ApiProblem";

  constructor(
    /** HTTP status; 0 when no answer came. */
    readonly status: number,
    readonly code: string,
    message: string,
    readonly remedy: string,
  ) {
    super(message);
  }
}

/** Reads an answer that is not a success. */
export function problemFrom(status: number, body: unknown): ApiProblem {
  const error = isRecord(body) && isRecord(body.error) ? body.error : {};
  return new ApiProblem(
    status,
    typeof error.code === "string" ? error.code : "unexpected",
    typeof error.message === "string" && error.message ? error.message : `The server answered with status ${status}.`,
    typeof error.remedy === "string" ? error.remedy : "",
  );
}

/** Turns whatever was thrown into something that can be shown. */
export function asProblem(thrown: unknown): ApiProblem {
  if (thrown instanceof ApiProblem) return thrown;
  if (thrown instanceof DOMException && (thrown.name === "TimeoutError" || thrown.name === "AbortError")) {
    return new ApiProblem(0, "no_answer", "The server did not answer in time.", "Try again in a moment.");
  }
  if (thrown instanceof TypeError) {
    return new ApiProblem(0, "unreachable", "The server can't be reached.", "It may be stopped or starting again, or your connection is down.");
  }
  return new ApiProblem(0, "unexpected", thrown instanceof Error ? thrown.message : String(thrown), "");
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
