/** What somebody chose the last time, kept in this browser. */
export type Remembered = { repository?: string; model?: string; effort?: string | null };

const KEY = "openinspect.last-choice";

export function remembered(): Remembered {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return typeof kept === "object" && kept !== null ? kept : {};
  } catch {
    return {};
  }
}

export function remember(choice: Remembered): void {
  try {
    localStorage.setItem(KEY, JSON.stringify({ ...remembered(), ...choice }));
  } catch {
    // then the next time begins as the first
  }
}
