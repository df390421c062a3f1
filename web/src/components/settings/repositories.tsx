import { useQuery } from "@tanstack/react-query";
import { FolderGit2, GitBranch } from "lucide-react";
import { useState } from "react";
import { DELETE, given } from "@/api/client";
import { asProblem } from "@/api/problem";
import { queries, repositoriesQuery } from "@/api/queries";
import type { Repository } from "@/api/types";
import { useCan } from "@/components/shell/me";
import { Ask } from "@/components/ui/ask";
import { Button } from "@/components/ui/button";
import { Empty } from "@/components/ui/empty";
import { ProblemNote } from "@/components/ui/problem-note";
import { AddRepository } from "./add-repository";
import { Row, Rows, SettingsPage, Waiting } from "./parts";

export function RepositoriesPage() {
  const { data, error } = useQuery(repositoriesQuery);
  const can = useCan();
  return (
    <SettingsPage title="Repositories" about="What sessions can work on. The agent works in a copy, on a branch of its own, and pushes only there.">
      {can("repositories.manage") && (
        <section className="rounded-xl border bg-surface p-4 shadow-card">
          <h2 className="mb-3 text-md font-semibold">Add a repository</h2>
          <AddRepository />
        </section>
      )}
      {error && <ProblemNote problem={asProblem(error)} />}
      {!data && !error && <Waiting what="the repositories" />}
      {data?.length === 0 && <Empty icon={<FolderGit2 />} title="No repositories yet" text={can("repositories.manage") ? "Add the first one above." : "An admin can add one."} />}
      {data && data.length > 0 && (
        <Rows label="Repositories">
          {data.map((one) => (
            <RepositoryRow key={one.id} repository={one} />
          ))}
        </Rows>
      )}
    </SettingsPage>
  );
}

function RepositoryRow({ repository }: { repository: Repository }) {
  const can = useCan();
  const [asking, setAsking] = useState(false);
  const cloned = repository.origin_url !== null;
  return (
    <Row>
      <FolderGit2 className="size-4 shrink-0 text-ink-3" aria-hidden />
      <div className="min-w-0 flex-1">
        <p className="truncate font-medium">{repository.name}</p>
        <p className="truncate font-mono text-xs text-ink-3" title={repository.origin_url ?? repository.location}>
          {repository.origin_url ?? repository.location}
        </p>
      </div>
      <span className="inline-flex items-center gap-1 text-xs text-ink-3">
        <GitBranch className="size-3.5" aria-hidden />
        {repository.default_branch ?? "empty"}
      </span>
      {can("repositories.manage") && (
        <Button look="danger" size="sm" onClick={() => setAsking(true)}>
          Remove
        </Button>
      )}
      {asking && (
        <Ask
          title={`Remove ${repository.name}?`}
          confirm="Remove"
          danger
          onClose={() => setAsking(false)}
          onConfirm={async () => {
            await given(DELETE("/api/repositories/{repository_id}", { params: { path: { repository_id: repository.id } } }));
            await queries.invalidateQueries({ queryKey: repositoriesQuery.queryKey });
          }}
        >
          {cloned ? "The server’s clone is deleted, with branches that were not pushed elsewhere." : "The folder stays where it is; it is only forgotten here."}
        </Ask>
      )}
    </Row>
  );
}
