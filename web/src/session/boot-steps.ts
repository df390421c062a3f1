/** The steps of a sandbox's start, as its events tell them. Pure. */
import type { EventOf } from "@/api/types";
import type { BootStepView } from "./items";

/** A step's log is shown from its end when it is longer. */
const MAX_LOG = 200_000;

export function withStep(steps: BootStepView[], body: EventOf<"boot.step">): BootStepView[] {
  const known = steps.find((one) => one.step === body.step);
  const step: BootStepView = {
    step: body.step,
    state: body.state,
    detail: body.detail || known?.detail || "",
    durationMs: body.duration_ms ?? null,
    log: known?.log ?? "",
  };
  return known ? steps.map((one) => (one === known ? step : one)) : [...steps, step];
}

export function withLog(steps: BootStepView[], body: EventOf<"boot.log">): BootStepView[] {
  if (!steps.some((one) => one.step === body.step)) {
    return [...steps, { step: body.step, state: "started", detail: "", durationMs: null, log: body.text }];
  }
  return steps.map((one) => (one.step === body.step ? { ...one, log: (one.log + body.text).slice(-MAX_LOG) } : one));
}
