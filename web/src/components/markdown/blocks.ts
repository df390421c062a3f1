/**
 * Cuts markdown into pieces that can be rendered apart, so that while a text grows only its last piece is read anew.
 * A cut is made only where a new block surely begins: at a blank line outside a fence, before a line that can't continue a list, quote or table.
 */
export function blocksOf(text: string): string[] {
  const blocks: string[] = [];
  let begin = 0;
  let fence: string | null = null;
  let blank = false;
  let at = 0;
  while (at < text.length) {
    const newline = text.indexOf("\n", at);
    const end = newline < 0 ? text.length : newline;
    const line = text.slice(at, end);
    const marker = /^ {0,3}(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence !== null) {
      if (marker && marker[0] === fence[0] && marker.length >= fence.length && line.trim() === marker) fence = null;
    } else {
      if (blank && at > begin && beginsBlock(line)) {
        blocks.push(text.slice(begin, at));
        begin = at;
      }
      if (marker) fence = marker;
    }
    blank = fence === null && line.trim() === "";
    at = end + 1;
  }
  if (begin < text.length) blocks.push(text.slice(begin));
  return blocks;
}

function beginsBlock(line: string): boolean {
  return line.trim() !== "" && !/^(\s|[-+*>|]|\d{1,9}[.)])/.test(line);
}
