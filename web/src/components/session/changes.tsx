import { useQuery } from "@tanstack/react-query";
import { Columns2, FolderGit2, Rows2 } from "lucide-react";
import { useState } from "react";
import { asProblem } from "@/api/problem";
import { diffQuery } from "@/api/queries";
import { Counts, DiffFiles } from "@/components/diff/files";
import { Ago } from "@/components/ui/ago";
import { Button } from "@/components/ui/button";
import { Empty } from "@/components/ui/empty";
import { ProblemNote } from "@/components/ui/problem-note";
import { plural } from "@/components/ui/words";
import { useStanding } from "@/session/use-session";

/** What the session's work trees differ by from where they began, repository by repository. */
export function Changes() {
  const standing = useStanding();
  const { data, error, refetch, isPending } = useQuery(diffQuery(standing.id));
  const [split, setSplit] = useState(false);
  if (error) {
    return (
      <div className="p-3">
        <ProblemNote problem={asProblem(error)}>
          <Button size="sm" onClick={() => refetch()}>
            Try again
          </Button>
        </ProblemNote>
      </div>
    );
  }
  if (isPending) return <p className="p-4 text-sm text-ink-3">Fetching the changes…</p>;
  const changed = data.repositories.filter((one) => one.files.length > 0);
  if (changed.length === 0) {
    return <Empty icon={<FolderGit2 />} title="Nothing has changed yet" text="What the agent changes in the files is shown here, as of its last turn." />;
  }
  return (
    <div className="space-y-4 p-3">
      {changed.map((repository, at) => (
        <section key={repository.directory} aria-label={repository.directory}>
          <header className="mb-2 flex items-center gap-2 px-1 text-xs text-ink-3">
            <span className="truncate font-medium text-ink">{standing.targets.find((one) => one.directory === repository.directory)?.repository ?? repository.directory}</span>
            <span className="shrink-0 tabular">{plural(repository.files.length + (repository.more_files ?? 0), "file")}</span>
            <Counts additions={repository.additions ?? 0} deletions={repository.deletions ?? 0} />
            {at === 0 && (
              <span className="ml-auto flex shrink-0 items-center gap-1">
                {data.updated_at && <Ago at={data.updated_at} />}
                <Button look="ghost" size="icon" className="max-sm:hidden" aria-pressed={split} aria-label={split ? "One column" : "Side by side"} title={split ? "One column" : "Side by side"} onClick={() => setSplit(!split)}>
                  {split ? <Rows2 className="size-3.5" /> : <Columns2 className="size-3.5" />}
                </Button>
              </span>
            )}
          </header>
          <DiffFiles diff={repository} split={split} />
        </section>
      ))}
    </div>
  );
}
