import { PullRequestCard } from "@/components/session/pull-request-card";
import type { PullRequestItem } from "@/session/items";

export function PullRequestRow({ item }: { item: PullRequestItem }) {
  const { change } = item;
  return (
    <div className="my-2.5">
      <PullRequestCard
        id={item.pullRequestId}
        known={{ number: change.number, title: change.title, state: change.state, draft: change.draft, repository: change.repository, head: change.head, base: change.base }}
      />
    </div>
  );
}
