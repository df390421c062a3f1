import { Link, getRouteApi, useNavigate, useRouterState } from "@tanstack/react-router";
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { POST, given } from "@/api/client";
import { SessionComposer } from "@/components/composer/session-composer";
import { doing } from "@/components/marks/activity";
import { ConnectionBanner } from "@/components/session/connection-banner";
import type { PanelName } from "@/components/session/panels";
import { Typing } from "@/components/session/presence";
import { SessionHeader } from "@/components/session/session-header";
import { SidePanel } from "@/components/session/side-panel";
import { titleOf } from "@/components/session/title";
import { Todos } from "@/components/session/todos";
import { useKeys } from "@/components/shell/keys";
import { useCan } from "@/components/shell/me";
import { Timeline } from "@/components/timeline/timeline";
import { Button, buttonClass } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { complain } from "@/components/ui/toasts";
import { queries } from "@/api/queries";
import { SessionContext, loadAgain, useSessionStore, useStanding, useStore, useView } from "@/session/use-session";
import { Page } from "./broken";

const route = getRouteApi("/app/sessions/$sessionId");
const PANEL_KEY = "openinspect.panel";

export function SessionPage() {
  const { sessionId } = route.useParams();
  const store = useSessionStore(sessionId);
  return (
    <SessionContext key={sessionId} value={store}>
      <Loaded />
    </SessionContext>
  );
}

function Loaded() {
  const store = useStore();
  const state = useView((view) => view.state);
  const problem = useView((view) => view.problem);
  const deleted = useView((view) => view.connection.state === "ended" && view.connection.because === "deleted");
  if (deleted) {
    return (
      <Page title="This session was deleted." text="What was pushed and its pull requests are still there.">
        <AllSessions look="primary" />
      </Page>
    );
  }
  if (state === "failed" && problem) {
    return (
      <Page title={problem.message} text={problem.remedy}>
        {problem.status !== 404 && (
          <Button look="primary" onClick={() => loadAgain(store)}>
            Try again
          </Button>
        )}
        <AllSessions look={problem.status === 404 ? "primary" : "secondary"} />
      </Page>
    );
  }
  if (state === "loading") return <Loading />;
  return <Session />;
}

function AllSessions({ look }: { look: "primary" | "secondary" }) {
  return (
    <Link to="/" className={buttonClass(look)}>
      All sessions
    </Link>
  );
}

function Loading() {
  return (
    <div role="status" className="flex min-h-0 flex-1 flex-col">
      <title>Session · Open-Inspect</title>
      <div className="flex h-12 items-center gap-3 border-b px-4">
        <span className="size-4 rounded-full bg-line" />
        <span className="h-3.5 w-56 animate-breathe rounded bg-line" />
      </div>
      <p className="p-6 text-center text-sm text-ink-3">Fetching the session…</p>
    </div>
  );
}

function Session() {
  const store = useStore();
  const standing = useStanding();
  const navigate = useNavigate();
  const search = route.useSearch();
  const can = useCan();
  const beside = useMedia("(min-width: 1080px)");
  const area = useRef<HTMLTextAreaElement>(null);
  const panel = search.panel === "none" ? null : (search.panel ?? (beside ? keptPanel() : null));
  const running = standing.prompts.some((one) => one.status === "running" && !one.stop_requested);
  const { target, reached } = useTarget();

  const setPanel = (next: PanelName | null) => {
    keepPanel(next);
    void navigate({ to: "/sessions/$sessionId", params: { sessionId: store.id }, search: { panel: next ?? "none" }, replace: true, hash: (hash) => hash ?? "" });
  };
  const stop = () => {
    if (!running || !can("sessions.prompt")) return;
    given(POST("/api/sessions/{session_id}/stop", { params: { path: { session_id: store.id } } })).catch(complain);
  };
  useKeys({ Escape: stop, "/": () => area.current?.focus(), d: () => setPanel(panel === null ? "changes" : null) });
  usePresence();
  useEffect(() => () => void queries.invalidateQueries({ queryKey: ["sessions"] }), []);

  const state = doing(standing);
  const mark = state.sign === "running" || state.sign === "starting" ? "● " : state.sign === "waiting" ? "? " : state.sign === "failed" ? "✕ " : "";
  return (
    <div className="flex min-h-0 flex-1">
      <title>{`${mark}${titleOf(standing)} · Open-Inspect`}</title>
      <main className="flex min-w-0 flex-1 flex-col">
        <SessionHeader panel={panel} onPanel={setPanel} />
        <ConnectionBanner />
        {standing.status === "archived" && <Archived />}
        <Announcer word={state.word} />
        <Timeline target={target} onTargetReached={reached} />
        <div className="shrink-0 pb-[max(0.5rem,env(safe-area-inset-bottom))]">
          <div className="mx-auto w-full max-w-[51rem] px-2 sm:px-6 lg:px-10">
            <Todos />
            <SessionComposer area={area} onStop={stop} />
            <Typing />
          </div>
        </div>
      </main>
      {panel !== null &&
        (beside ? (
          <aside aria-label="Changes and details" className="w-[clamp(22rem,36vw,44rem)] shrink-0 border-l">
            <SidePanel panel={panel} onPanel={setPanel} onClose={() => setPanel(null)} />
          </aside>
        ) : (
          <Dialog title="Changes and details" look="sheet" bare onClose={() => setPanel(null)}>
            <SidePanel panel={panel} onPanel={setPanel} onClose={() => setPanel(null)} />
          </Dialog>
        ))}
    </div>
  );
}

/** Tells screen readers when the session begins to do something else; the text itself is not read out as it streams. */
function Announcer({ word }: { word: string }) {
  return (
    <p role="status" className="sr-only">
      {word}
    </p>
  );
}

function Archived() {
  const { id } = useStore();
  const can = useCan();
  return (
    <div role="note" className="flex items-center gap-3 border-b bg-sunken px-4 py-1.5 text-sm text-ink-2 sm:px-6">
      <span className="flex-1">This session is archived. It can be read, and prompted again once it is restored.</span>
      {can("sessions.manage") && (
        <Button size="sm" onClick={() => given(POST("/api/sessions/{session_id}/restore", { params: { path: { session_id: id } } })).catch(complain)}>
          Restore
        </Button>
      )}
    </div>
  );
}

/** The event that the address points to, until it is shown. */
function useTarget() {
  const hash = useRouterState({ select: (state) => state.location.hash });
  const [shown, setShown] = useState<string | null>(null);
  const [again, setAgain] = useState(0);
  useEffect(() => {
    // The same address pressed again is no change of the address.
    const press = (event: MouseEvent) => {
      const link = event.target instanceof Element ? event.target.closest('a[href^="#"]') : null;
      if (link?.getAttribute("href") === location.hash) {
        setShown(null);
        setAgain((times) => times + 1);
      }
    };
    addEventListener("click", press);
    return () => removeEventListener("click", press);
  }, []);
  const name = `${hash}/${again}`;
  const seq = /^\d{1,15}$/.test(hash) ? Number(hash) : null;
  const reached = useCallback(() => setShown(name), [name]);
  return { target: shown === name ? null : seq, reached };
}

function usePresence(): void {
  const store = useStore();
  useEffect(() => {
    const tell = () => {
      if (document.hidden) store.say({ type: "here", state: "idle", typing: false });
      else {
        store.say({ type: "here", state: "active", typing: false });
        store.reconnect();
      }
    };
    tell();
    document.addEventListener("visibilitychange", tell);
    addEventListener("online", store.reconnect);
    return () => {
      document.removeEventListener("visibilitychange", tell);
      removeEventListener("online", store.reconnect);
    };
  }, [store]);
}

function useMedia(query: string): boolean {
  const media = matchMedia(query);
  return useSyncExternalStore(
    (listener) => {
      media.addEventListener("change", listener);
      return () => media.removeEventListener("change", listener);
    },
    () => media.matches,
  );
}

function keptPanel(): PanelName | null {
  try {
    const kept = localStorage.getItem(PANEL_KEY);
    return kept === "changes" || kept === "pull-requests" || kept === "details" ? kept : null;
  } catch {
    return null;
  }
}

function keepPanel(panel: PanelName | null): void {
  try {
    localStorage.setItem(PANEL_KEY, panel ?? "none");
  } catch {
    // it holds until the page is left
  }
}
