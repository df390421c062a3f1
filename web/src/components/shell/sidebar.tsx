import { useInfiniteQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { LogOut, Monitor, Moon, PanelLeft, Plus, Search, Settings, Sun } from "lucide-react";
import { useSyncExternalStore } from "react";
import { sessionsQuery } from "@/api/queries";
import { setTheme, useTheme } from "@/appearance/theme";
import { ActivityMark } from "@/components/marks/activity-mark";
import { titleOf } from "@/components/session/title";
import { Ago } from "@/components/ui/ago";
import { Avatar } from "@/components/ui/avatar";
import { Button } from "@/components/ui/button";
import { MOD } from "@/components/ui/kbd";
import { Menu } from "@/components/ui/menu";
import { Logo } from "./logo";
import { useMe } from "./me";
import { signOut } from "./sign-out";

const KEY = "openinspect.sidebar";
const listeners = new Set<() => void>();
let wide = read();

function read(): boolean {
  try {
    return localStorage.getItem(KEY) !== "narrow";
  } catch {
    return true;
  }
}

function setWide(next: boolean): void {
  wide = next;
  try {
    localStorage.setItem(KEY, next ? "wide" : "narrow");
  } catch {
    // it holds until the page is left
  }
  for (const listener of listeners) listener();
}

export function toggleSidebar(): void {
  setWide(!wide);
}

/** The way about: a rail, or a column with the newest sessions. A phone has the first page instead. */
export function Sidebar({ current, rail, onCommands }: { current: string | null; rail: boolean; onCommands: () => void }) {
  const wanted = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => wide,
  );
  const open = wanted && !rail;
  return (
    <nav aria-label="Main" className={`hidden shrink-0 flex-col border-r bg-sunken sm:flex ${open ? "w-12 lg:w-60" : "w-12"}`}>
      <div className="flex h-12 shrink-0 items-center gap-2 px-2.5">
        <Link to="/" aria-label="Open-Inspect: all sessions" className="grid size-7 shrink-0 place-items-center rounded-md hover:bg-hover">
          <Logo />
        </Link>
        {open && <span className="hidden flex-1 truncate text-sm font-semibold lg:block">Open-Inspect</span>}
        {open && (
          <Button look="ghost" size="icon" className="max-lg:hidden" aria-label="Fold the sidebar" title={`Fold the sidebar (${MOD}.)`} onClick={toggleSidebar}>
            <PanelLeft className="size-4" />
          </Button>
        )}
      </div>
      <div className="flex flex-col gap-0.5 px-2">
        <RailLink to="/" label="New session" hint="N" open={open}>
          <Plus className="size-4" />
        </RailLink>
        <button type="button" onClick={onCommands} title={`Find (${MOD}K)`} className="flex h-8 items-center gap-2.5 rounded-md px-2 text-sm text-ink-2 hover:bg-hover hover:text-ink">
          <Search className="size-4 shrink-0" aria-hidden />
          <span className={open ? "hidden flex-1 text-left lg:block" : "sr-only"}>Find</span>
          {open && <span className="hidden text-2xs text-ink-3 lg:block">{MOD}K</span>}
        </button>
        {!open && !rail && (
          <Button look="ghost" size="icon-md" className="max-lg:hidden" aria-label="Unfold the sidebar" title={`Unfold the sidebar (${MOD}.)`} onClick={toggleSidebar}>
            <PanelLeft className="size-4" />
          </Button>
        )}
      </div>
      {open && <Recent current={current} />}
      <div className={open ? "flex-1 lg:hidden" : "flex-1"} />
      <div className="flex flex-col gap-0.5 p-2">
        <RailLink to="/settings/profile" label="Settings" open={open}>
          <Settings className="size-4" />
        </RailLink>
        <Me open={open} />
      </div>
    </nav>
  );
}

function RailLink({ to, label, hint, open, children }: { to: "/" | "/settings/profile"; label: string; hint?: string; open: boolean; children: React.ReactNode }) {
  return (
    <Link to={to} title={open ? undefined : label} className="flex h-8 items-center gap-2.5 rounded-md px-2 text-sm text-ink-2 hover:bg-hover hover:text-ink">
      <span className="shrink-0">{children}</span>
      <span className={open ? "hidden flex-1 lg:block" : "sr-only"}>{label}</span>
      {open && hint && <span className="hidden text-2xs text-ink-3 lg:block">{hint}</span>}
    </Link>
  );
}

function Recent({ current }: { current: string | null }) {
  const { data } = useInfiniteQuery(sessionsQuery({ status: "active", mine: false, q: "" }));
  const sessions = data?.pages[0]?.items ?? [];
  return (
    <div className="mt-3 hidden min-h-0 flex-1 flex-col lg:flex">
      <h2 className="px-4 pb-1 text-2xs font-medium text-ink-3">Sessions</h2>
      <ul className="scroll-thin min-h-0 flex-1 overflow-y-auto px-2">
        {sessions.slice(0, 30).map((one) => (
          <li key={one.id}>
            <Link
              to="/sessions/$sessionId"
              params={{ sessionId: one.id }}
              aria-current={one.id === current ? "page" : undefined}
              className="flex items-center gap-2 rounded-md px-2 py-1.5 text-sm text-ink-2 hover:bg-hover aria-[current=page]:bg-hover aria-[current=page]:text-ink"
            >
              <ActivityMark session={one} className="[&>svg]:size-3.5" />
              <span className="min-w-0 flex-1 truncate">{titleOf(one)}</span>
              <Ago at={one.updated_at} className="shrink-0 text-2xs text-ink-3 tabular" />
            </Link>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Me({ open }: { open: boolean }) {
  const { user } = useMe();
  const theme = useTheme();
  return (
    <Menu
      label={`${user.name}: appearance and sign out`}
      align="start"
      side="top"
      size="icon-md"
      className={`justify-start! px-1.5 ${open ? "w-full gap-2.5" : ""}`}
      actions={[
        { label: "Light", icon: <Sun />, checked: theme === "light", onPick: () => setTheme("light") },
        { label: "Dark", icon: <Moon />, checked: theme === "dark", onPick: () => setTheme("dark") },
        { label: "As the system has it", icon: <Monitor />, checked: theme === "system", onPick: () => setTheme("system") },
        "line",
        { label: "Sign out", icon: <LogOut />, onPick: () => void signOut() },
      ]}
    >
      <Avatar name={user.name} id={user.id} label={false} />
      {open && <span className="hidden min-w-0 truncate text-sm font-normal lg:block">{user.name}</span>}
    </Menu>
  );
}

/** On a phone, above the first page and the settings. */
export function PhoneBar({ onCommands }: { onCommands: () => void }) {
  const navigate = useNavigate();
  return (
    <header className="flex h-12 shrink-0 items-center gap-1 border-b px-3 sm:hidden">
      <Link to="/" className="flex flex-1 items-center gap-2 font-semibold">
        <Logo /> Open-Inspect
      </Link>
      <Button look="ghost" size="icon" aria-label="Find" onClick={onCommands}>
        <Search className="size-4" />
      </Button>
      <Button look="ghost" size="icon" aria-label="Settings" onClick={() => navigate({ to: "/settings/profile" })}>
        <Settings className="size-4" />
      </Button>
    </header>
  );
}
