import { createContext, use, useEffect, useSyncExternalStore } from "react";
import type { SessionDetail } from "@/api/types";
import type { Item } from "./items";
import { SessionStore, type SessionView } from "./session-store";

/** Stores of the sessions that are shown. One that was just left stays for a moment, so that coming back costs nothing. */
const stores = new Map<string, { store: SessionStore; users: number; leaving?: ReturnType<typeof setTimeout> }>();
const LINGER_MS = 20_000;

function held(id: string): SessionStore {
  let entry = stores.get(id);
  if (!entry) {
    entry = { store: new SessionStore(id), users: 0 };
    stores.set(id, entry);
    void entry.store.start();
  }
  return entry.store;
}

/** The session's store, alive for as long as somebody uses it. */
export function useSessionStore(id: string): SessionStore {
  const store = held(id);
  useEffect(() => {
    held(id); // it may have gone between rendering and now
    const entry = stores.get(id)!;
    entry.users += 1;
    clearTimeout(entry.leaving);
    return () => {
      entry.users -= 1;
      if (entry.users > 0) return;
      entry.leaving = setTimeout(() => {
        entry.store.stop();
        stores.delete(id);
      }, LINGER_MS);
    };
  }, [id]);
  return store;
}

/** Begins anew with a session that could not be loaded. */
export function loadAgain(store: SessionStore): void {
  store.stop();
  void store.start();
}

export const SessionContext = createContext<SessionStore | null>(null);

export function useStore(): SessionStore {
  const store = use(SessionContext);
  if (!store) throw new Error("used outside a session");
  return store;
}

/** A part of how the session looks now. What `select` gives has to be the same object while it means the same. */
export function useView<T>(select: (view: SessionView) => T): T {
  const store = useStore();
  return useSyncExternalStore(store.subscribe, () => select(store.view));
}

/** How the session stands; only for what is shown once it is loaded. */
export function useStanding(): SessionDetail {
  const standing = useView((view) => view.standing);
  if (!standing) throw new Error("used before the session is loaded");
  return standing;
}

export function useItem(id: string): Item | undefined {
  const store = useStore();
  return useSyncExternalStore(store.subscribe, () => store.timeline.items.get(id));
}

export function useTimelineValue<T>(select: (store: SessionStore) => T): T {
  const store = useStore();
  return useSyncExternalStore(store.subscribe, () => select(store));
}
