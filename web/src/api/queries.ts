/** What the page reads from the server, by key. A session's own page reads its log and stream instead: see `session/`. */
import { QueryClient, infiniteQueryOptions, queryOptions } from "@tanstack/react-query";
import { GET, given } from "./client";
import { ApiProblem } from "./problem";

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: 10_000,
      retry: (count, error) => count < 2 && (!(error instanceof ApiProblem) || error.status === 0 || error.status >= 500),
      retryDelay: (count) => Math.min(300 * 2 ** count, 3_000),
    },
  },
});

/** What no stream and no timer renews is asked for again by itself while the server is away. */
const AGAIN_MS = 4_000;
const untilThere = (query: { state: { error: Error | null } }) => (query.state.error ? AGAIN_MS : false);

export const meQuery = queryOptions({
  queryKey: ["me"],
  queryFn: () => given(GET("/api/me")),
  staleTime: 60_000,
});

export type SessionFilter = { status: "active" | "archived"; mine: boolean; q: string };

export const sessionsQuery = (filter: SessionFilter) =>
  infiniteQueryOptions({
    queryKey: ["sessions", filter],
    queryFn: ({ pageParam }) =>
      given(
        GET("/api/sessions", {
          params: { query: { status: filter.status, mine: filter.mine, q: filter.q || null, limit: 50, before: pageParam } },
        }),
      ),
    initialPageParam: null as string | null,
    getNextPageParam: (page) => page.next,
    // Only sessions have a stream; the list is looked at again while somebody sees it.
    refetchInterval: 4_000,
    staleTime: 2_000,
  });

export const diffQuery = (id: string) =>
  queryOptions({
    queryKey: ["session", id, "diff"],
    queryFn: () => given(GET("/api/sessions/{session_id}/diff", { params: { path: { session_id: id } } })),
  });

export const repositoriesQuery = queryOptions({
  queryKey: ["repositories"],
  queryFn: () => given(GET("/api/repositories")),
  staleTime: 30_000,
  refetchInterval: untilThere,
});

export const branchesQuery = (repositoryId: string) =>
  queryOptions({
    queryKey: ["repositories", repositoryId, "branches"],
    queryFn: () => given(GET("/api/repositories/{repository_id}/branches", { params: { path: { repository_id: repositoryId } } })),
    staleTime: 30_000,
  });

export const pullRequestQuery = (id: string) =>
  queryOptions({
    queryKey: ["pull-requests", id],
    queryFn: () => given(GET("/api/pull-requests/{pull_request_id}", { params: { path: { pull_request_id: id } } })),
  });

export const pullRequestDiffQuery = (id: string) =>
  queryOptions({
    queryKey: ["pull-requests", id, "diff"],
    queryFn: () => given(GET("/api/pull-requests/{pull_request_id}/diff", { params: { path: { pull_request_id: id } } })),
  });

export const modelsQuery = queryOptions({
  queryKey: ["models"],
  queryFn: () => given(GET("/api/models")),
  staleTime: 60_000,
  refetchInterval: untilThere,
});

export const usersQuery = queryOptions({ queryKey: ["users"], queryFn: () => given(GET("/api/users")) });

export const tokensQuery = queryOptions({ queryKey: ["tokens"], queryFn: () => given(GET("/api/tokens")) });
