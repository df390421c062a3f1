/** Every page by its address. */
import { createRootRoute, createRoute, createRouter, lazyRouteComponent, redirect } from "@tanstack/react-router";
import { ApiProblem } from "@/api/problem";
import { meQuery, modelsQuery, queries, repositoriesQuery } from "@/api/queries";
import { PANELS, type PanelName } from "@/components/session/panels";
import { AppShell } from "@/components/shell/app-shell";
import { Broken, NotFound } from "./broken";
import { Home } from "./home";
import { SignIn } from "./sign-in";

const root = createRootRoute({ notFoundComponent: NotFound, errorComponent: Broken });

const signIn = createRoute({ getParentRoute: () => root, path: "/signin", component: SignIn });

const app = createRoute({
  getParentRoute: () => root,
  id: "app",
  beforeLoad: async ({ location }) => {
    try {
      await queries.ensureQueryData(meQuery);
    } catch (thrown) {
      if (thrown instanceof ApiProblem && thrown.status === 401) throw redirect({ to: "/signin", search: location.href === "/" ? {} : { to: location.href } });
      throw thrown;
    }
  },
  component: AppShell,
  errorComponent: Broken,
});

const home = createRoute({
  getParentRoute: () => app,
  path: "/",
  validateSearch: (search: Record<string, unknown>): { archived?: boolean; mine?: boolean; q?: string } => ({
    ...(search.archived === true ? { archived: true } : {}),
    ...(search.mine === true ? { mine: true } : {}),
    ...(typeof search.q === "string" || typeof search.q === "number" ? { q: String(search.q) } : {}),
  }),
  loader: () => {
    void queries.prefetchQuery(repositoriesQuery);
    void queries.prefetchQuery(modelsQuery);
  },
  component: Home,
});

const session = createRoute({
  getParentRoute: () => app,
  path: "/sessions/$sessionId",
  validateSearch: (search: Record<string, unknown>): { panel?: PanelName | "none" } => {
    const panel = [...PANELS, "none" as const].find((one) => one === search.panel);
    if (panel) return { panel };
    // Addresses of pull requests, as the agent and the command line give them, lead to the session that made them.
    return typeof search["pull-request"] === "string" ? { panel: "pull-requests" } : {};
  },
  component: lazyRouteComponent(() => import("./session"), "SessionPage"),
});

const settings = createRoute({ getParentRoute: () => app, path: "/settings", component: lazyRouteComponent(() => import("./settings"), "SettingsLayout") });
const settingsIndex = createRoute({
  getParentRoute: () => settings,
  path: "/",
  beforeLoad: () => {
    throw redirect({ to: "/settings/profile", replace: true });
  },
});
const profile = createRoute({ getParentRoute: () => settings, path: "/profile", component: lazyRouteComponent(() => import("./settings"), "ProfilePage") });
const tokens = createRoute({ getParentRoute: () => settings, path: "/tokens", component: lazyRouteComponent(() => import("./settings"), "TokensPage") });
const members = createRoute({ getParentRoute: () => settings, path: "/members", component: lazyRouteComponent(() => import("./settings"), "MembersPage") });
const repositories = createRoute({ getParentRoute: () => settings, path: "/repositories", component: lazyRouteComponent(() => import("./settings"), "RepositoriesPage") });
const models = createRoute({ getParentRoute: () => settings, path: "/models", component: lazyRouteComponent(() => import("./settings"), "ModelsPage") });

export const router = createRouter({
  routeTree: root.addChildren([signIn, app.addChildren([home, session, settings.addChildren([settingsIndex, profile, tokens, members, repositories, models])])]),
  defaultPreload: "intent",
  defaultPreloadStaleTime: 0,
  scrollRestoration: false,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
