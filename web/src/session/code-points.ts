/** Offsets and lengths of text are counted in Unicode code points on the wire; JavaScript counts UTF-16 units. */
export function codePoints(text: string): number {
  let surplus = 0;
  for (let at = 0; at < text.length; at += 1) {
    const unit = text.charCodeAt(at);
    if (unit >= 0xd800 && unit <= 0xdbff && isLow(text.charCodeAt(at + 1))) {
      surplus += 1;
      at += 1;
    }
  }
  return text.length - surplus;
}

/** The text without its first `count` code points. */
export function skipCodePoints(text: string, count: number): string {
  let at = 0;
  for (let left = count; left > 0 && at < text.length; left -= 1) {
    const unit = text.charCodeAt(at);
    at += unit >= 0xd800 && unit <= 0xdbff && isLow(text.charCodeAt(at + 1)) ? 2 : 1;
  }
  return text.slice(at);
}

function isLow(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}
