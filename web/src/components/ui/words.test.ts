import { describe, expect, it } from "vitest";
import { ago, count, duration, money } from "./words";

const now = Date.parse("2026-11-20T12:00:00Z");
const before = (seconds: number) => new Date(now - seconds * 1000).toISOString();

describe("words", () => {
  it("tells times", () => {
    expect([0, 44, 60, 600, 3_600, 7_200, 86_400 * 3].map((one) => ago(before(one), now))).toEqual(["now", "now", "1m", "10m", "1h", "2h", "3d"]);
    expect(ago(before(-30), now)).toBe("now");
  });
  it("tells durations", () => {
    expect([12, 949, 1_500, 42_000, 59_600, 134_000, 7_384_000].map(duration)).toEqual(["12 ms", "949 ms", "1.5 s", "42 s", "1m 0s", "2m 14s", "2h 3m"]);
  });
  it("tells money and counts", () => {
    expect([0, 0.0004, 0.0042, 0.0123, 1.5].map(money)).toEqual(["$0", "<$0.001", "$0.004", "$0.01", "$1.50"]);
    expect([999, 1_234, 45_600, 1_200_000].map(count)).toEqual(["999", "1.2k", "46k", "1.2M"]);
  });
});
