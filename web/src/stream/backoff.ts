/** How long to wait before the next attempt, in milliseconds: doubles from 300 ms to 10 s, less up to a quarter by chance. */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const whole = Math.min(300 * 2 ** Math.min(attempt, 10), 10_000);
  return Math.round(whole * (1 - random() / 4));
}
