/** Asks before something that can't be taken back. */
import { type ReactNode, useState } from "react";
import { type ApiProblem, asProblem } from "@/api/problem";
import { Button } from "./button";
import { Dialog } from "./dialog";
import { ProblemNote } from "./problem-note";

type AskProps = { title: string; children: ReactNode; confirm: string; danger?: boolean; onConfirm: () => Promise<unknown>; onClose: () => void };

export function Ask({ title, children, confirm, danger = false, onConfirm, onClose }: AskProps) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  return (
    <Dialog title={title} onClose={onClose}>
      <div className="space-y-4 px-5 pb-5 text-sm text-ink-2">
        <div>{children}</div>
        {problem && <ProblemNote problem={problem} />}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>Cancel</Button>
          <Button
            look={danger ? "danger" : "primary"}
            busy={busy}
            onClick={() => {
              setBusy(true);
              setProblem(null);
              onConfirm().then(onClose, (thrown: unknown) => {
                setBusy(false);
                setProblem(asProblem(thrown));
              });
            }}
          >
            {confirm}
          </Button>
        </div>
      </div>
    </Dialog>
  );
}
