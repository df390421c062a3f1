import { Link, Outlet } from "@tanstack/react-router";
import { Boxes, KeyRound, Sparkles, UserRound, Users } from "lucide-react";
import { useCan } from "@/components/shell/me";

export { MembersPage } from "@/components/settings/members";
export { ModelsPage } from "@/components/settings/models";
export { ProfilePage } from "@/components/settings/profile";
export { RepositoriesPage } from "@/components/settings/repositories";
export { TokensPage } from "@/components/settings/tokens";

const PAGES = [
  { to: "/settings/profile", label: "Profile", Sign: UserRound },
  { to: "/settings/tokens", label: "API tokens", Sign: KeyRound },
  { to: "/settings/members", label: "Members", Sign: Users },
  { to: "/settings/repositories", label: "Repositories", Sign: Boxes },
  { to: "/settings/models", label: "Models", Sign: Sparkles },
] as const;

export function SettingsLayout() {
  const can = useCan();
  const pages = PAGES.filter((one) => one.to !== "/settings/members" || can("users.read"));
  return (
    <main className="scroll-thin min-h-0 flex-1 overflow-y-auto">
      <div className="mx-auto grid w-full max-w-[60rem] gap-x-10 gap-y-6 px-4 py-6 sm:px-8 sm:py-12 md:grid-cols-[10.5rem_1fr]">
        <nav aria-label="Settings" className="-mx-2 flex flex-wrap gap-0.5 self-start md:sticky md:top-0 md:mx-0 md:flex-col">
          <h2 className="mb-2 hidden px-2 text-xs font-medium text-ink-3 md:block">Settings</h2>
          {pages.map(({ to, label, Sign }) => (
            <Link
              key={to}
              to={to}
              className="flex h-8 shrink-0 items-center gap-2.5 rounded-md px-2 text-sm text-ink-2 hover:bg-hover hover:text-ink aria-[current=page]:bg-hover aria-[current=page]:font-medium aria-[current=page]:text-ink coarse:h-10"
            >
              <Sign className="size-4 text-ink-3" aria-hidden />
              {label}
            </Link>
          ))}
        </nav>
        <div className="min-w-0">
          <Outlet />
        </div>
      </div>
    </main>
  );
}
