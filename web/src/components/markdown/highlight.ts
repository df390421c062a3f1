/** Colours code. The highlighter and its languages come in a file of their own, when there is the first code to colour. */
import type { Root } from "hast";

export type Highlight = (code: string, language: string) => Root | null;

/** Longer code is shown plain: colouring it would hold the page up. */
export const MAX_HIGHLIGHTED = 60_000;

let loading: Promise<Highlight> | null = null;
let loaded: Highlight | null = null;

export function highlighter(): Highlight | null {
  return loaded;
}

export function loadHighlighter(): Promise<Highlight> {
  loading ??= import("./languages").then(({ highlight }) => (loaded = highlight));
  return loading;
}
