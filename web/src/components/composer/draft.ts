/** Words that were typed and not sent yet, kept in this browser: a reload or a lost connection does not lose them. */
import { useState } from "react";

const PREFIX = "openinspect.draft.";

export function useDraft(name: string): [string, (text: string) => void] {
  const [kept, setKept] = useState(() => ({ name, text: read(name) }));
  const text = kept.name === name ? kept.text : read(name);
  return [
    text,
    (next) => {
      setKept({ name, text: next });
      try {
        if (next) localStorage.setItem(PREFIX + name, next);
        else localStorage.removeItem(PREFIX + name);
      } catch {
        // it is kept as long as the page is open
      }
    },
  ];
}

function read(name: string): string {
  try {
    return localStorage.getItem(PREFIX + name) ?? "";
  } catch {
    return "";
  }
}
