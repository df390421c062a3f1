/** What a terminal would show of a text: colours become spans, other escapes go, and a carriage return writes over its line. */

export type Piece = { text: string; tone: string };

const TONES: Record<number, string> = {
  30: "text-ink-3",
  31: "text-bad",
  32: "text-good",
  33: "text-warn",
  34: "text-accent",
  35: "text-merged",
  36: "text-accent",
  90: "text-ink-3",
  91: "text-bad",
  92: "text-good",
  93: "text-warn",
  94: "text-accent",
  95: "text-merged",
  96: "text-accent",
};

// oxlint-disable-next-line no-control-regex -- control characters are what this is about
const ESCAPES = /\x1b\[([0-9;:?]*)([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[PX^_][^\x1b]*(?:\x1b\\)?|\x1b[ -/]*[0-~]?/g;
// oxlint-disable-next-line no-control-regex -- as above
const CONTROLS = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;

export function plain(text: string): string {
  return overwritten(text.replace(ESCAPES, "")).replace(CONTROLS, "");
}

export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let tone = "";
  let bold = false;
  let at = 0;
  const add = (raw: string) => {
    const clean = raw.replace(CONTROLS, "");
    if (clean) found.push({ text: clean, tone: bold ? `${tone} font-semibold` : tone });
  };
  const source = overwritten(text);
  for (const escape of source.matchAll(ESCAPES)) {
    add(source.slice(at, escape.index));
    at = escape.index + escape[0].length;
    if (escape[2] !== "m") continue;
    const codes = (escape[1] || "0").split(/[;:]/).map(Number);
    for (let code = 0; code < codes.length; code += 1) {
      const value = codes[code]!;
      if (value === 0) [tone, bold] = ["", false];
      else if (value === 1) bold = true;
      else if (value === 22) bold = false;
      else if (value === 39) tone = "";
      else if (value === 38 || value === 48) code += codes[code + 1] === 5 ? 2 : 4;
      else if (TONES[value] !== undefined) tone = TONES[value];
    }
  }
  add(source.slice(at));
  return found;
}

/** Of lines that were written over by a carriage return, what was written last. */
function overwritten(text: string): string {
  if (!text.includes("\r")) return text;
  return text
    .replace(/\r+\n/g, "\n")
    .split("\n")
    .map((line) => line.slice(line.replace(/\r+$/, "").lastIndexOf("\r") + 1).replace(/\r+$/, ""))
    .join("\n");
}
