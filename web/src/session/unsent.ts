/**
 * Prompts that the server may not have yet, kept in this browser until it has them: a reload, or a page that is left, loses none. Each keeps the
 * key it was first sent with, so that sending it again never doubles it. Bounded: the oldest go first.
 */
import { meQuery, queries } from "@/api/queries";
import type { NewPrompt } from "@/api/types";

export type Unsent = { key: string; body: NewPrompt };

type Kept = Unsent & { session: string; by: string };

const KEY = "openinspect.unsent";
const MAX_KEPT = 40;
const MAX_LETTERS = 1_000_000;

/** What this person has not got rid of yet in this session, oldest first. */
export function unsent(session: string): Unsent[] {
  const by = me();
  return read()
    .filter((one) => one.session === session && one.by === by)
    .map(({ key, body }) => ({ key, body }));
}

export function keep(session: string, { key, body }: Unsent): void {
  const all = [...read().filter((one) => one.key !== key), { key, body, session, by: me() }].slice(-MAX_KEPT);
  let letters = all.reduce((sum, one) => sum + one.body.text.length, 0);
  while (all.length > 1 && letters > MAX_LETTERS) letters -= all.shift()!.body.text.length;
  write(all);
}

export function forget(key: string): void {
  write(read().filter((one) => one.key !== key));
}

/** Another person may sign in with the same browser. */
function me(): string {
  return queries.getQueryData(meQuery.queryKey)?.user.id ?? "";
}

function read(): Kept[] {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(kept) ? kept.filter(isKept) : [];
  } catch {
    return [];
  }
}

function write(all: Kept[]): void {
  try {
    if (all.length > 0) localStorage.setItem(KEY, JSON.stringify(all));
    else localStorage.removeItem(KEY);
  } catch {
    // they are kept as long as the page is open
  }
}

function isKept(value: unknown): value is Kept {
  const one = value as Partial<Kept> | null;
  return typeof one === "object" && one !== null && [one.key, one.session, one.by, one.body?.text].every((field) => typeof field === "string");
}
