import { CircleAlert } from "lucide-react";
import type { ReactNode } from "react";
import type { ApiProblem } from "@/api/problem";

/** What went wrong and what to do about it, with room for a button. */
export function ProblemNote({ problem, children }: { problem: Pick<ApiProblem, "message" | "remedy">; children?: ReactNode }) {
  return (
    <div role="alert" className="flex items-start gap-2.5 rounded-lg bg-bad-soft px-3 py-2.5 text-sm">
      <CircleAlert className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden />
      <div className="min-w-0 flex-1 break-words">
        <p className="font-medium text-ink">{problem.message}</p>
        {problem.remedy && <p className="mt-0.5 text-ink-2">{withCode(problem.remedy)}</p>}
      </div>
      {children}
    </div>
  );
}

/** What stands between backticks is a command. */
function withCode(words: string): ReactNode {
  return words.split("`").map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part));
}
