import { Outlet, useNavigate, useParams, useRouterState } from "@tanstack/react-router";
import { FlaskConical } from "lucide-react";
import { useState } from "react";
import { CommandMenu } from "./command-menu";
import { useKeys } from "./keys";
import { useMe } from "./me";
import { PhoneBar, Sidebar, toggleSidebar } from "./sidebar";

/** What stands about every page but the sign-in. */
export function AppShell() {
  const [commands, setCommands] = useState(false);
  const { server } = useMe();
  const navigate = useNavigate();
  const path = useRouterState({ select: (state) => state.location.pathname });
  const { sessionId = null } = useParams({ strict: false });
  const inSession = sessionId !== null;
  useKeys({
    "mod+k": () => setCommands((open) => !open),
    "mod+.": toggleSidebar,
    n: () => void navigate({ to: "/" }).then(() => document.querySelector<HTMLElement>("[data-composer] textarea")?.focus()),
  });
  return (
    <div className="flex h-dvh flex-col">
      {server.scripted_model && <ScriptedBanner />}
      <div className="flex min-h-0 flex-1">
        <Sidebar current={sessionId} rail={path === "/"} onCommands={() => setCommands(true)} />
        <div className="flex min-w-0 flex-1 flex-col">
          {!inSession && <PhoneBar onCommands={() => setCommands(true)} />}
          <Outlet />
        </div>
      </div>
      {commands && <CommandMenu onClose={() => setCommands(false)} />}
    </div>
  );
}

function ScriptedBanner() {
  return (
    <aside aria-label="About this server" className="flex min-h-7 shrink-0 items-center justify-center gap-2 border-b bg-warn-soft px-3 py-0.5 text-center text-xs text-ink-2">
      <FlaskConical className="size-3.5 shrink-0 text-warn" aria-hidden />
      Answers come from a scripted model: no provider key is set.
    </aside>
  );
}
