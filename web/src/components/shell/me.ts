import { useSuspenseQuery } from "@tanstack/react-query";
import { meQuery } from "@/api/queries";
import type { Me } from "@/api/types";

export type Permission =
  | "sessions.read"
  | "sessions.create"
  | "sessions.prompt"
  | "sessions.manage"
  | "sessions.delete_any"
  | "repositories.manage"
  | "pull_requests.merge"
  | "tokens.manage"
  | "users.read"
  | "users.manage";

/** Who is signed in. The routes that need it load it first. */
export function useMe(): Me {
  return useSuspenseQuery(meQuery).data;
}

export function useCan(): (permission: Permission) => boolean {
  const { permissions } = useMe();
  return (permission) => permissions.includes(permission);
}
