import { beforeEach, expect, test, vi } from "vitest";
import { meQuery, queries } from "@/api/queries";
import { forget, keep, unsent } from "./unsent";

const prompt = (text: string) => ({ text, attachments: [] });
const person = (id: string) => queries.setQueryData(meQuery.queryKey, { user: { id } } as never);

beforeEach(() => {
  const kept = new Map<string, string>();
  vi.stubGlobal("localStorage", {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
    removeItem: (key: string) => kept.delete(key),
  });
  person("ada");
});

test("what was not sent is kept by session and in order, until it is forgotten", () => {
  keep("one", { key: "a", body: prompt("first") });
  keep("one", { key: "b", body: prompt("second") });
  keep("two", { key: "c", body: prompt("elsewhere") });
  expect(unsent("one").map((one) => one.body.text)).toEqual(["first", "second"]);
  forget("a");
  expect(unsent("one").map((one) => one.key)).toEqual(["b"]);
});

test("nobody is given what another person did not send", () => {
  keep("one", { key: "a", body: prompt("mine") });
  person("lin");
  expect(unsent("one")).toEqual([]);
});

test("it is bounded: the oldest go first", () => {
  for (let at = 0; at < 60; at += 1) keep("one", { key: String(at), body: prompt("x") });
  expect(unsent("one")).toHaveLength(40);
  expect(unsent("one").at(-1)!.key).toBe("59");
  for (let at = 60; at < 90; at += 1) keep("one", { key: String(at), body: prompt("x".repeat(64_000)) });
  expect(unsent("one").reduce((sum, one) => sum + one.body.text.length, 0)).toBeLessThanOrEqual(1_000_000);
  expect(unsent("one").at(-1)!.key).toBe("89");
});

test("what something else wrote there is passed over", () => {
  localStorage.setItem("openinspect.unsent", '[null, 3, {"key": "a"}]');
  expect(unsent("one")).toEqual([]);
  localStorage.setItem("openinspect.unsent", "{");
  expect(unsent("one")).toEqual([]);
});
