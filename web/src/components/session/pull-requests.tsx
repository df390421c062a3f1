import { useQuery } from "@tanstack/react-query";
import { GitPullRequest } from "lucide-react";
import { asProblem } from "@/api/problem";
import { pullRequestDiffQuery } from "@/api/queries";
import type { PullRequest } from "@/api/types";
import { Counts, DiffFiles } from "@/components/diff/files";
import { Empty } from "@/components/ui/empty";
import { ProblemNote } from "@/components/ui/problem-note";
import { plural } from "@/components/ui/words";
import { useStanding } from "@/session/use-session";
import { PullRequestCard } from "./pull-request-card";

export function PullRequests() {
  const { pull_requests: all } = useStanding();
  if (all.length === 0) {
    return <Empty icon={<GitPullRequest />} title="No pull request yet" text="Ask the agent to open one when the work is right: it pushes its branch, and the pull request stands here to be merged." />;
  }
  return (
    <div className="space-y-6 p-3">
      {all.map((one) => (
        <div key={one.id} className="space-y-3">
          <PullRequestCard id={one.id} known={one} body />
          <Diff pullRequest={one} />
        </div>
      ))}
    </div>
  );
}

function Diff({ pullRequest }: { pullRequest: PullRequest }) {
  const { data, error } = useQuery(pullRequestDiffQuery(pullRequest.id));
  if (error) return <ProblemNote problem={asProblem(error)} />;
  if (!data) return <p className="px-1 text-xs text-ink-3">Fetching its changes…</p>;
  return (
    <div>
      <p className="mb-2 flex gap-2 px-1 text-xs text-ink-3">
        {plural(data.files.length + (data.more_files ?? 0), "file")} <Counts additions={data.additions ?? 0} deletions={data.deletions ?? 0} />
      </p>
      <DiffFiles diff={data} split={false} />
    </div>
  );
}
