import { LogOut, Monitor, Moon, Sun } from "lucide-react";
import { type Theme, setTheme, useTheme } from "@/appearance/theme";
import { useMe } from "@/components/shell/me";
import { signOut } from "@/components/shell/sign-out";
import { Avatar } from "@/components/ui/avatar";
import { Button } from "@/components/ui/button";
import { MOD } from "@/components/ui/kbd";
import { SettingsPage } from "./parts";

const THEMES: { value: Theme; label: string; Sign: typeof Sun }[] = [
  { value: "system", label: "As the system has it", Sign: Monitor },
  { value: "light", label: "Light", Sign: Sun },
  { value: "dark", label: "Dark", Sign: Moon },
];

const KEYS: [string, string][] = [
  ["/", "To the composer"],
  ["n", "New session"],
  ["j  k", "Down and up the list of sessions"],
  [`${MOD}K`, "Find a session or a command"],
  [`${MOD}⏎`, "Send the prompt"],
  ["Esc", "Stop the agent"],
  ["d", "Changes and details beside the timeline"],
  [`${MOD}.`, "Fold the sidebar"],
];

export function ProfilePage() {
  const { user, server, permissions } = useMe();
  const theme = useTheme();
  return (
    <SettingsPage title="Profile" about="Who you are here, and how the page looks in this browser.">
      <section className="flex flex-wrap items-center gap-4 rounded-xl border bg-surface px-4 py-4 shadow-card">
        <Avatar name={user.name} id={user.id} size={44} label={false} />
        <div className="min-w-0 flex-1">
          <p className="truncate text-md font-semibold">{user.name}</p>
          <p className="truncate text-sm text-ink-2">
            {user.email} · <span title={permissions.join(", ")}>{user.role}</span>
          </p>
        </div>
        <Button onClick={() => void signOut()}>
          <LogOut className="size-4" /> Sign out
        </Button>
      </section>
      <p className="-mt-3 text-xs text-ink-3">Commits that the agent makes on your prompts carry this name and address as their author.</p>

      <fieldset>
        <legend className="mb-2 text-md font-semibold">Appearance</legend>
        <div className="grid gap-2 sm:grid-cols-3">
          {THEMES.map(({ value, label, Sign }) => (
            <label key={value} className="flex cursor-pointer items-center gap-2.5 rounded-lg border bg-surface px-3 py-2.5 text-sm hover:border-line-strong has-checked:border-accent has-checked:bg-accent-soft has-focus-visible:outline-2 has-focus-visible:outline-accent">
              <input type="radio" name="theme" className="sr-only" checked={theme === value} onChange={() => setTheme(value)} />
              <Sign className="size-4 text-ink-3" aria-hidden /> {label}
            </label>
          ))}
        </div>
      </fieldset>

      <section>
        <h2 className="mb-2 text-md font-semibold">Keys</h2>
        <dl className="grid gap-x-10 rounded-xl border bg-surface px-4 py-2 text-sm shadow-card sm:grid-cols-2">
          {KEYS.map(([key, what]) => (
            <div key={key} className="flex items-center justify-between gap-4 py-1.5">
              <dt className="text-ink-2">{what}</dt>
              <dd>
                <kbd className="rounded border bg-sunken px-1.5 py-0.5 font-sans text-xs whitespace-pre text-ink-2">{key}</kbd>
              </dd>
            </div>
          ))}
        </dl>
      </section>
      <p className="text-xs text-ink-3">
        Open-Inspect {server.version} at {server.public_url}
      </p>
    </SettingsPage>
  );
}
