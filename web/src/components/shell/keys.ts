/** Keys that do something wherever one is on a page, unless somebody is writing. */
import { useEffect, useRef } from "react";

export type Keys = Record<string, (event: KeyboardEvent) => void>;

/** `keys` by name: "n", "/", "mod+k", "Escape". Only those with `mod` and Escape are heard in a field. */
export function useKeys(keys: Keys): void {
  const current = useRef(keys);
  useEffect(() => {
    current.current = keys;
  });
  useEffect(() => {
    const hear = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return;
      const mod = event.metaKey || event.ctrlKey;
      if (event.altKey) return;
      const name = mod ? `mod+${event.key.toLowerCase()}` : event.key;
      const writing = event.target instanceof HTMLElement && (event.target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName));
      if (writing && !mod && event.key !== "Escape") return;
      if (document.querySelector("dialog[open]") && name !== "mod+k") return;
      const work = current.current[name];
      if (!work) return;
      event.preventDefault();
      work(event);
    };
    addEventListener("keydown", hear);
    return () => removeEventListener("keydown", hear);
  }, []);
}
