/** ⌘K: go to a session or a page, or do something, by typing its name. */
import { keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { Boxes, KeyRound, LogOut, Monitor, Moon, Plus, Settings, Sparkles, Sun, Users } from "lucide-react";
import { type ReactNode, useDeferredValue, useEffect, useId, useRef, useState } from "react";
import { setTheme } from "@/appearance/theme";
import { sessionsQuery } from "@/api/queries";
import { ActivityMark } from "@/components/marks/activity-mark";
import { titleOf } from "@/components/session/title";
import { Ago } from "@/components/ui/ago";
import { Dialog } from "@/components/ui/dialog";
import { signOut } from "./sign-out";

type Command = { id: string; group: string; label: string; icon: ReactNode; aside?: ReactNode; words?: string; run: () => unknown };

export function CommandMenu({ onClose }: { onClose: () => void }) {
  const navigate = useNavigate();
  const [words, setWords] = useState("");
  const needle = words.trim();
  const asked = useDeferredValue(needle);
  const [active, setActive] = useState<string | null>(null);
  const list = useRef<HTMLDivElement>(null);
  const id = useId();
  const { data } = useInfiniteQuery({ ...sessionsQuery({ status: "active", mine: false, q: asked }), placeholderData: keepPreviousData });
  const low = needle.toLowerCase();

  // Until the server has answered for these very words, what is shown must match them all the same: Enter may come first.
  const found = (data?.pages[0]?.items ?? []).filter((one) => titleOf(one).toLowerCase().includes(low));
  const sessions: Command[] = found.slice(0, needle ? 20 : 8).map((one) => ({
    id: one.id,
    group: "Sessions",
    label: titleOf(one),
    icon: <ActivityMark session={one} />,
    aside: (
      <>
        {one.targets[0]?.repository} <Ago at={one.updated_at} className="ml-2 inline-block w-8 text-right tabular" />
      </>
    ),
    run: () => navigate({ to: "/sessions/$sessionId", params: { sessionId: one.id } }),
  }));
  const fixed: Command[] = [
    { id: "new", group: "Do", label: "New session", icon: <Plus />, words: "create start", run: () => navigate({ to: "/" }) },
    { id: "repositories", group: "Go to", label: "Repositories", icon: <Boxes />, words: "settings add", run: () => navigate({ to: "/settings/repositories" }) },
    { id: "members", group: "Go to", label: "Members", icon: <Users />, words: "settings people invite", run: () => navigate({ to: "/settings/members" }) },
    { id: "tokens", group: "Go to", label: "API tokens", icon: <KeyRound />, words: "settings", run: () => navigate({ to: "/settings/tokens" }) },
    { id: "models", group: "Go to", label: "Models", icon: <Sparkles />, words: "settings", run: () => navigate({ to: "/settings/models" }) },
    { id: "profile", group: "Go to", label: "Settings", icon: <Settings />, words: "profile appearance", run: () => navigate({ to: "/settings/profile" }) },
    { id: "light", group: "Appearance", label: "Light", icon: <Sun />, words: "theme", run: () => setTheme("light") },
    { id: "dark", group: "Appearance", label: "Dark", icon: <Moon />, words: "theme", run: () => setTheme("dark") },
    { id: "system", group: "Appearance", label: "As the system has it", icon: <Monitor />, words: "theme", run: () => setTheme("system") },
    { id: "out", group: "You", label: "Sign out", icon: <LogOut />, words: "log out leave", run: signOut },
  ];
  const matching = fixed.filter((one) => `${one.label} ${one.words ?? ""} ${one.group}`.toLowerCase().includes(low));
  const shown = [...matching.filter((one) => one.id === "new"), ...sessions, ...matching.filter((one) => one.id !== "new")];
  const current = shown.some((one) => one.id === active) ? active : (shown[0]?.id ?? null);
  useEffect(() => {
    list.current?.querySelector('[data-active="true"]')?.scrollIntoView({ block: "nearest" });
  }, [current]);
  const run = (command: Command | undefined) => {
    if (!command) return;
    onClose();
    void command.run();
  };
  return (
    <Dialog title="Commands" look="palette" bare onClose={onClose}>
      <input
        // oxlint-disable-next-line jsx-a11y/no-autofocus -- it is what the menu is for
        autoFocus
        role="combobox"
        aria-expanded
        aria-controls={id}
        aria-activedescendant={current === null ? undefined : `${id}-${current}`}
        aria-label="Find a session or a command"
        placeholder="Find a session or a command…"
        value={words}
        spellCheck={false}
        onChange={(event) => setWords(event.target.value)}
        onKeyDown={(event) => {
          const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
          if (by !== undefined && shown.length > 0) {
            event.preventDefault();
            const at = shown.findIndex((one) => one.id === current);
            setActive(shown[(at + by + shown.length) % shown.length]!.id);
          } else if (event.key === "Enter") {
            event.preventDefault();
            run(shown.find((one) => one.id === current));
          }
        }}
        className="w-full border-b bg-transparent px-4 py-3.5 text-md outline-none"
      />
      <div ref={list} id={id} role="listbox" aria-label="Commands" className="scroll-thin overflow-y-auto p-1.5">
        {shown.length === 0 && <p className="px-3 py-6 text-center text-sm text-ink-3">Nothing is called that.</p>}
        {shown.map((one, at) => (
          <div key={one.id} role="presentation">
            {one.group !== shown[at - 1]?.group && (
              <div aria-hidden className="px-2.5 pt-2 pb-1 text-2xs font-medium text-ink-3">
                {one.group}
              </div>
            )}
            {/* oxlint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/interactive-supports-focus -- the field holds the focus and the keys */}
            <div
              id={`${id}-${one.id}`}
              role="option"
              aria-selected={one.id === current}
              data-active={one.id === current}
              onPointerMove={() => setActive(one.id)}
              onClick={() => run(one)}
              className="flex cursor-pointer items-center gap-3 rounded-md px-2.5 py-2 text-sm data-[active=true]:bg-hover coarse:py-3"
            >
              <span className="flex text-ink-3 [&>svg]:size-4">{one.icon}</span>
              <span className="min-w-0 flex-1 truncate">{one.label}</span>
              {one.aside && <span className="shrink-0 text-xs text-ink-3">{one.aside}</span>}
            </div>
          </div>
        ))}
      </div>
    </Dialog>
  );
}
