/** The sessions, newest first: found by title, filtered, and walked through with j and k. */
import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { Link, getRouteApi, useNavigate } from "@tanstack/react-router";
import { Archive, Inbox, Search, UserRound } from "lucide-react";
import { type ReactNode, memo, useDeferredValue, useRef, useState } from "react";
import { asProblem } from "@/api/problem";
import { queries, sessionsQuery } from "@/api/queries";
import type { SessionSummary } from "@/api/types";
import { TONES, doing } from "@/components/marks/activity";
import { ActivityMark } from "@/components/marks/activity-mark";
import { PullRequestMark } from "@/components/marks/pull-request-mark";
import { titleOf } from "@/components/session/title";
import { useKeys } from "@/components/shell/keys";
import { Ago } from "@/components/ui/ago";
import { Avatar } from "@/components/ui/avatar";
import { Button } from "@/components/ui/button";
import { Empty } from "@/components/ui/empty";
import { ProblemNote } from "@/components/ui/problem-note";
import { money } from "@/components/ui/words";

const route = getRouteApi("/app/");

export function SessionList() {
  const { archived = false, mine = false, q = "" } = route.useSearch();
  const navigate = useNavigate({ from: "/" });
  const [words, setWords] = useState(q);
  const needle = useDeferredValue(words.trim());
  const query = useInfiniteQuery({ ...sessionsQuery({ status: archived ? "archived" : "active", mine, q: needle }), placeholderData: keepPreviousData });
  const list = useRef<HTMLUListElement>(null);
  const sessions = query.data?.pages.flatMap((page) => page.items) ?? [];
  const filtered = archived || mine || needle !== "";

  const walk = (by: number) => {
    const links = [...(list.current?.querySelectorAll<HTMLAnchorElement>("a[data-session]") ?? [])];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    links[at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
  };
  useKeys({ j: () => walk(1), k: () => walk(-1) });
  const change = (next: { archived?: boolean; mine?: boolean; q?: string }) =>
    void navigate({ search: { ...(archived ? { archived } : {}), ...(mine ? { mine } : {}), ...(q ? { q } : {}), ...next }, replace: true });

  return (
    <section aria-label="Sessions">
      <div className="mb-2 flex flex-wrap items-center gap-1.5">
        <h2 className="mr-auto text-md font-semibold">Sessions</h2>
        <label className="flex h-7 items-center gap-1.5 rounded-md px-2 text-ink-3 focus-within:bg-hover hover:bg-hover max-sm:order-last max-sm:w-full max-sm:bg-hover coarse:h-9">
          <Search className="size-3.5 shrink-0" aria-hidden />
          <input
            type="search"
            aria-label="Search by title"
            placeholder="Search by title"
            value={words}
            onChange={(event) => setWords(event.target.value)}
            onBlur={() => change({ q: words.trim() || undefined })}
            className="w-full bg-transparent text-xs text-ink outline-none sm:w-36"
          />
        </label>
        <Toggle on={mine} onChange={(on) => change({ mine: on || undefined })} icon={<UserRound />}>
          Mine
        </Toggle>
        <Toggle on={archived} onChange={(on) => change({ archived: on || undefined })} icon={<Archive />}>
          Archived
        </Toggle>
      </div>
      {query.error && (
        <div className="mb-2">
          <ProblemNote problem={asProblem(query.error)}>
            <Button size="sm" onClick={() => queries.refetchQueries({ type: "active", predicate: (one) => one.state.status === "error" })}>
              Try again
            </Button>
          </ProblemNote>
        </div>
      )}
      {query.isPending && <Waiting />}
      {query.data && sessions.length === 0 && (
        <Empty
          icon={<Inbox />}
          title={needle ? `No session is called “${needle}”` : archived ? "Nothing is archived" : mine ? "You have no sessions yet" : "No sessions yet"}
          text={filtered ? "Look without the filters." : "The first one stands here as soon as it is begun."}
        />
      )}
      {sessions.length > 0 && (
        <ul ref={list} className="overflow-hidden rounded-xl border bg-surface shadow-card">
          {sessions.map((one) => (
            <SessionRow key={one.id} session={one} />
          ))}
        </ul>
      )}
      {query.hasNextPage && (
        <div className="mt-3 text-center">
          <Button size="sm" busy={query.isFetchingNextPage} onClick={() => query.fetchNextPage()}>
            Show more
          </Button>
        </div>
      )}
    </section>
  );
}

const SessionRow = memo(function SessionRow({ session }: { session: SessionSummary }) {
  const state = doing(session);
  const loud = session.status === "active" && session.activity !== "idle";
  return (
    <li className="border-b last:border-b-0">
      <Link
        to="/sessions/$sessionId"
        params={{ sessionId: session.id }}
        data-session
        className="grid grid-cols-[auto_minmax(0,1fr)_auto_auto] items-center gap-x-3 px-3.5 py-2.5 -outline-offset-2 hover:bg-hover sm:grid-cols-[auto_minmax(0,1fr)_auto_4.5rem_auto_2.75rem]"
      >
        <ActivityMark session={session} />
        <span className="min-w-0">
          <span className="block truncate font-medium">{titleOf(session)}</span>
          <span className="block truncate text-xs text-ink-3">
            {loud && <span className={TONES[state.tone]}>{state.word} · </span>}
            {session.last_outcome === "failed" && !loud && <span className="text-bad">Failed · </span>}
            {session.targets.length > 0 ? session.targets.map((one) => one.repository).join(", ") : "no repository"}
            {session.targets[0] && <span className="hidden sm:inline" title={session.targets[0].base_branch}> · {session.targets[0].base_branch}</span>}
          </span>
        </span>
        <span className="flex justify-end gap-1">
          {session.pull_requests.slice(-2).map((one) => (
            <PullRequestMark key={one.id} pullRequest={one} />
          ))}
        </span>
        <span className="hidden text-right text-xs text-ink-3 tabular sm:block" title="What the models have cost">
          {session.cost_usd > 0 ? money(session.cost_usd) : ""}
        </span>
        <span className="hidden sm:flex">
          <Avatar name={session.owner.name} id={session.owner.id} size={20} />
        </span>
        <Ago at={session.updated_at} className="text-right text-xs text-ink-3 tabular" />
      </Link>
    </li>
  );
});

function Toggle({ on, onChange, icon, children }: { on: boolean; onChange: (on: boolean) => void; icon: ReactNode; children: ReactNode }) {
  return (
    <button
      type="button"
      aria-pressed={on}
      onClick={() => onChange(!on)}
      className="inline-flex h-7 items-center gap-1.5 rounded-md px-2 text-xs font-medium text-ink-3 hover:bg-hover hover:text-ink aria-pressed:bg-accent-soft aria-pressed:text-accent coarse:h-9 [&>svg]:size-3.5"
    >
      {icon}
      {children}
    </button>
  );
}

function Waiting() {
  return (
    <div role="status" className="overflow-hidden rounded-xl border bg-surface">
      <span className="sr-only">Fetching the sessions…</span>
      {[70, 45, 60, 38].map((width) => (
        <div key={width} className="flex items-center gap-3 border-b px-3.5 py-3 last:border-b-0">
          <span className="size-4 rounded-full bg-sunken" />
          <span className="h-3.5 animate-breathe rounded bg-sunken" style={{ width: `${width}%` }} />
        </div>
      ))}
    </div>
  );
}
