import { useQuery } from "@tanstack/react-query";
import { ArrowRight, ChevronDown } from "lucide-react";
import { useState } from "react";
import { POST, given } from "@/api/client";
import { type ApiProblem, asProblem } from "@/api/problem";
import { pullRequestQuery, queries } from "@/api/queries";
import type { MergeMethod, PullRequest } from "@/api/types";
import { pullRequestLook } from "@/components/marks/pull-request-mark";
import { useCan } from "@/components/shell/me";
import { Ago } from "@/components/ui/ago";
import { Button } from "@/components/ui/button";
import { Menu } from "@/components/ui/menu";
import { ProblemNote } from "@/components/ui/problem-note";
import { Prose } from "@/components/markdown/prose";

type Known = Pick<PullRequest, "number" | "title" | "state" | "draft" | "repository" | "head" | "base">;

const METHODS: Record<MergeMethod, { label: string; hint: string }> = {
  merge: { label: "Merge", hint: "A merge commit" },
  squash: { label: "Squash and merge", hint: "One commit of it all" },
  ff: { label: "Fast-forward", hint: "No merge commit" },
};

/** A pull request: what it is, how it stands, and the buttons to merge or close it. */
export function PullRequestCard({ id, known, body = false }: { id: string; known: Known; body?: boolean }) {
  const query = useQuery(pullRequestQuery(id));
  const full = query.data;
  const shown = full ?? known;
  const { Sign, word, text, soft } = pullRequestLook(shown);
  return (
    <div role="group" aria-label={`Pull request #${shown.number}`} className="overflow-hidden rounded-xl border bg-surface shadow-card">
      <div className="flex items-start gap-3 px-4 py-3">
        <span className={`mt-0.5 inline-flex size-7 shrink-0 items-center justify-center rounded-full ${soft} ${text}`}>
          <Sign className="size-4" aria-hidden />
        </span>
        <div className="min-w-0 flex-1">
          <h2 className="text-md leading-snug font-semibold break-words">
            {shown.title} <span className="font-normal text-ink-3">#{shown.number}</span>
          </h2>
          <p className="mt-1 flex flex-wrap items-center gap-x-2 gap-y-1 text-xs text-ink-3">
            <span className={`font-medium ${text}`}>{word}</span>
            <span className="truncate">{shown.repository}</span>
            <span className="inline-flex min-w-0 items-center gap-1 font-mono text-2xs">
              <span className="truncate">{shown.base}</span>
              <ArrowRight className="size-3 shrink-0 rotate-180" aria-label="from" />
              <span className="truncate" title={shown.head}>
                {shown.head}
              </span>
            </span>
            {full && <Ago at={full.merged_at ?? full.updated_at} />}
          </p>
        </div>
      </div>
      {body && full?.body && (
        <div className="border-t px-4 py-3 text-sm">
          <Prose text={full.body} />
        </div>
      )}
      {shown.state !== "merged" && <MergeBar id={id} full={full} />}
      {shown.state === "merged" && full?.merge_sha && (
        <p className="border-t px-4 py-2 text-xs text-ink-3">
          Merged into <span className="font-mono">{full.base}</span> as <span className="font-mono">{full.merge_sha.slice(0, 7)}</span>
        </p>
      )}
    </div>
  );
}

function MergeBar({ id, full }: { id: string; full: PullRequest | undefined }) {
  const can = useCan();
  const [method, setMethod] = useState<MergeMethod>("merge");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  if (!can("pull_requests.merge") || !full) return null;

  const act = (call: Promise<PullRequest>) => {
    setBusy(true);
    setProblem(null);
    call
      .then(
        (now) => queries.setQueryData(pullRequestQuery(id).queryKey, now),
        (thrown: unknown) => {
          setProblem(asProblem(thrown));
          return queries.invalidateQueries({ queryKey: pullRequestQuery(id).queryKey });
        },
      )
      .finally(() => setBusy(false));
  };
  const path = { pull_request_id: id };
  return (
    <div className="border-t bg-sunken px-4 py-2.5">
      {problem && (
        <div className="mb-2.5">
          <ProblemNote problem={problem} />
        </div>
      )}
      {full.state === "closed" ? (
        <Button size="sm" busy={busy} onClick={() => act(given(POST("/api/pull-requests/{pull_request_id}/reopen", { params: { path } })))}>
          Open it again
        </Button>
      ) : (
        <div className="flex flex-wrap items-center gap-2">
          <div className="flex">
            <Button
              look="primary"
              size="sm"
              busy={busy}
              disabled={full.mergeable === false}
              className="rounded-r-none"
              onClick={() => act(given(POST("/api/pull-requests/{pull_request_id}/merge", { params: { path }, body: { method, expected_head: full.head_sha } })))}
            >
              {METHODS[method].label}
            </Button>
            <Menu
              label="How to merge"
              look="primary"
              size="icon"
              align="start"
              className="rounded-l-none border-l border-l-on-ink/25 coarse:size-9"
              disabled={busy || full.mergeable === false}
              actions={(Object.keys(METHODS) as MergeMethod[]).map((one) => ({ label: METHODS[one].label, hint: METHODS[one].hint, checked: one === method, onPick: () => setMethod(one) }))}
            >
              <ChevronDown className="size-3.5" />
            </Menu>
          </div>
          <Button look="ghost" size="sm" busy={busy} onClick={() => act(given(POST("/api/pull-requests/{pull_request_id}/close", { params: { path } })))}>
            Close
          </Button>
          <span className={`min-w-0 text-xs ${full.mergeable === false ? "text-warn" : "text-ink-3"}`}>
            {full.mergeable === false ? full.mergeable_reason || "Can't be merged as it is." : full.mergeable ? "No conflicts" : ""}
          </span>
        </div>
      )}
    </div>
  );
}
