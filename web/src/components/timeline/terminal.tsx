import { memo, useMemo } from "react";
import { pieces } from "./ansi";

/** Output of a command, in its colours. */
export const Terminal = memo(function Terminal({ text, lines }: { text: string; lines?: number }) {
  const shown = useMemo(() => {
    const whole = text.replace(/\s+$/, "");
    return pieces(lines === undefined ? whole : whole.split("\n").slice(-lines).join("\n"));
  }, [text, lines]);
  return (
    <>
      {shown.map((piece, at) => (
        // oxlint-disable-next-line react/no-array-index-key -- pieces have no other name
        <span key={at} className={piece.tone || undefined}>
          {piece.text}
        </span>
      ))}
    </>
  );
});
