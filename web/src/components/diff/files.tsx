/** What has changed in a repository: its files, each folding out to its patch. */
import { ChevronRight } from "lucide-react";
import { memo, useMemo, useState } from "react";
import type { FileDiff, RepositoryDiff } from "@/api/types";
import { CopyButton } from "@/components/ui/copy-button";
import { plural } from "@/components/ui/words";
import { DiffLines } from "./lines";
import { hunksOf } from "./patch";

/** Beyond this many lines a file begins folded. */
const OPEN_LINES = 300;
const OPEN_FILES = 12;

const STATUS = {
  added: { letter: "A", word: "Added", tone: "text-good" },
  modified: { letter: "M", word: "Modified", tone: "text-warn" },
  deleted: { letter: "D", word: "Deleted", tone: "text-bad" },
  renamed: { letter: "R", word: "Renamed", tone: "text-accent" },
  type_changed: { letter: "T", word: "Type changed", tone: "text-warn" },
  unmerged: { letter: "U", word: "Not merged", tone: "text-bad" },
  submodule: { letter: "S", word: "Submodule", tone: "text-ink-3" },
} as const;

const WHY_NOT = {
  metadata_only: "Only its name or mode has changed.",
  too_large: "This change is too large to show here. It is in the branch.",
  binary: "A binary file.",
} as const;

export function Counts({ additions, deletions, className = "" }: { additions: number; deletions: number; className?: string }) {
  return (
    <span className={`inline-flex gap-1.5 font-mono text-xs tabular ${className}`}>
      <span className="text-good">+{additions}</span>
      <span className="text-bad">−{deletions}</span>
      <span className="sr-only">
        {plural(additions, "line")} added, {deletions} removed
      </span>
    </span>
  );
}

export function DiffFiles({ diff, split }: { diff: RepositoryDiff; split: boolean }) {
  return (
    <div className="space-y-2">
      {diff.files.map((file, at) => (
        <File key={file.path} file={file} split={split} begin={at < OPEN_FILES && file.additions + file.deletions <= OPEN_LINES} />
      ))}
      {(diff.more_files ?? 0) > 0 && <p className="px-1 text-xs text-ink-3">{plural(diff.more_files ?? 0, "further file")} not shown here.</p>}
    </div>
  );
}

const File = memo(function File({ file, split, begin }: { file: FileDiff; split: boolean; begin: boolean }) {
  const [open, setOpen] = useState(begin);
  const hunks = useMemo(() => (open && file.state === "renderable" ? hunksOf(file.patch) : []), [open, file]);
  const { letter, word, tone } = STATUS[file.status];
  const slash = file.path.lastIndexOf("/") + 1;
  return (
    <section className="overflow-clip rounded-lg border bg-surface">
      <div className="sticky top-0 z-10 flex items-center bg-surface">
        <button type="button" aria-expanded={open} onClick={() => setOpen(!open)} className="flex min-w-0 flex-1 items-center gap-1.5 px-2 py-1.5 text-left text-xs hover:bg-hover coarse:py-2.5">
          <ChevronRight className={`size-3.5 shrink-0 text-ink-3 transition-transform duration-100 ${open ? "rotate-90" : ""}`} aria-hidden />
          <span title={word} className={`w-3 shrink-0 text-center font-mono font-semibold ${tone}`}>
            {letter}
          </span>
          <span className="min-w-0 truncate font-mono" title={file.old_path ? `${file.old_path} → ${file.path}` : file.path}>
            <span className="text-ink-3">{file.path.slice(0, slash)}</span>
            {file.path.slice(slash)}
          </span>
          <Counts additions={file.additions ?? 0} deletions={file.deletions ?? 0} className="ml-auto pl-2" />
        </button>
        <CopyButton text={file.path} label="Copy path" className="mr-1" />
      </div>
      {open && (
        <div className="border-t">
          {file.state !== "renderable" && <p className="px-3 py-2 text-xs text-ink-3">{WHY_NOT[file.state]}</p>}
          {hunks.map((hunk, at) => (
            // oxlint-disable-next-line react/no-array-index-key -- hunks have no other name
            <div key={at}>
              {(at > 0 || hunk.heading) && (
                <div className="border-y border-line bg-sunken px-3 py-0.5 font-mono text-2xs text-ink-3 first:border-t-0">⋯ {hunk.heading}</div>
              )}
              <DiffLines lines={hunk.lines} split={split} />
            </div>
          ))}
        </div>
      )}
    </section>
  );
});
