import { GitMerge, GitPullRequest, GitPullRequestClosed, GitPullRequestDraft } from "lucide-react";
import type { PullRequest } from "@/api/types";

type Shown = Pick<PullRequest, "state" | "draft" | "number">;

export function pullRequestLook({ state, draft }: Pick<Shown, "state" | "draft">) {
  if (state === "merged") return { Sign: GitMerge, word: "Merged", text: "text-merged", soft: "bg-merged-soft" };
  if (state === "closed") return { Sign: GitPullRequestClosed, word: "Closed", text: "text-bad", soft: "bg-bad-soft" };
  if (draft) return { Sign: GitPullRequestDraft, word: "Draft", text: "text-ink-3", soft: "bg-sunken" };
  return { Sign: GitPullRequest, word: "Open", text: "text-good", soft: "bg-good-soft" };
}

/** A pull request as its sign and number. */
export function PullRequestMark({ pullRequest, className = "" }: { pullRequest: Shown; className?: string }) {
  const { Sign, word, text, soft } = pullRequestLook(pullRequest);
  return (
    <span title={`Pull request #${pullRequest.number}: ${word.toLowerCase()}`} className={`inline-flex items-center gap-1 rounded-full px-1.5 py-px text-xs font-medium tabular ${text} ${soft} ${className}`}>
      <Sign className="size-3" aria-hidden />
      <span className="sr-only">Pull request, {word.toLowerCase()},</span>#{pullRequest.number}
    </span>
  );
}
