/** Lines of a diff. Long ones wrap; what is far outside the view is not laid out. */
import { memo, useState } from "react";
import { type DiffLine, sideBySide } from "./patch";

const CHUNK = 150;
const FIRST = 600;

const TONES = { same: "", added: "bg-added", removed: "bg-removed" } as const;
const SIGNS = { same: " ", added: "+", removed: "−" } as const;
/** Fainter than the line, and still to be read on its colour. */
const NUMBER_TONES = { same: "text-ink-3", added: "text-ink-2", removed: "text-ink-2" } as const;
const SIGN_TONES = { same: "text-ink-3", added: "text-good", removed: "text-bad" } as const;

export function DiffLines({ lines, split = false, numbers = true }: { lines: readonly DiffLine[]; split?: boolean; numbers?: boolean }) {
  const [limit, setLimit] = useState(FIRST);
  const chunks: DiffLine[][] = [];
  for (let at = 0; at < Math.min(lines.length, limit); at += CHUNK) chunks.push(lines.slice(at, Math.min(at + CHUNK, limit)));
  return (
    <div className="font-mono text-[0.74rem] leading-[1.2rem]">
      {chunks.map((chunk, at) => (
        // oxlint-disable-next-line react/no-array-index-key -- pieces of a text have no other name
        <Chunk key={at} lines={chunk} split={split} numbers={numbers} />
      ))}
      {lines.length > limit && (
        <button type="button" onClick={() => setLimit(limit * 4)} className="w-full border-t px-3 py-2 text-left font-sans text-xs font-medium text-accent hover:bg-hover">
          Show {lines.length - limit} more lines
        </button>
      )}
    </div>
  );
}

const Chunk = memo(function Chunk({ lines, split, numbers }: { lines: DiffLine[]; split: boolean; numbers: boolean }) {
  return (
    <div className="[content-visibility:auto]" style={{ containIntrinsicSize: `auto ${lines.length * 19.2}px` }}>
      {split
        ? sideBySide(lines).map(({ left, right }, at) => (
            // oxlint-disable-next-line react/no-array-index-key -- lines have no other name
            <div key={at} className="grid grid-cols-2">
              <Half line={left} number={left?.old} />
              <Half line={right} number={right?.new} />
            </div>
          ))
        : lines.map((line, at) => (
            // oxlint-disable-next-line react/no-array-index-key -- lines have no other name
            <div key={at} className={`flex ${TONES[line.kind]}`}>
              {numbers && (
                <>
                  <LineNumber value={line.old} kind={line.kind} />
                  <LineNumber value={line.new} kind={line.kind} />
                </>
              )}
              <span className={`w-5 shrink-0 text-center select-none ${SIGN_TONES[line.kind]}`}>{SIGNS[line.kind]}</span>
              <span className="min-w-0 flex-1 pr-3 break-words whitespace-pre-wrap [overflow-wrap:anywhere]">{line.text || " "}</span>
            </div>
          ))}
    </div>
  );
});

function Half({ line, number }: { line: DiffLine | null; number: number | null | undefined }) {
  if (!line) return <div className="bg-sunken" />;
  return (
    <div className={`flex min-w-0 ${TONES[line.kind]}`}>
      <LineNumber value={number ?? null} kind={line.kind} />
      <span className={`w-4 shrink-0 text-center select-none ${SIGN_TONES[line.kind]}`}>{SIGNS[line.kind]}</span>
      <span className="min-w-0 flex-1 pr-2 break-words whitespace-pre-wrap [overflow-wrap:anywhere]">{line.text || " "}</span>
    </div>
  );
}

function LineNumber({ value, kind }: { value: number | null; kind: DiffLine["kind"] }) {
  return <span className={`w-9 shrink-0 pr-1.5 text-right select-none tabular ${NUMBER_TONES[kind]}`}>{value ?? ""}</span>;
}
