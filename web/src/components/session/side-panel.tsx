/** Beside the timeline: what has changed, the pull requests, and the particulars. On a phone it is a sheet. */
import { FileDiff, GitPullRequest, Info, X } from "lucide-react";
import { type KeyboardEvent, lazy, Suspense, useRef } from "react";
import { Button } from "@/components/ui/button";
import { useStanding, useTimelineValue } from "@/session/use-session";
import { Details } from "./details";
import { PANELS, type PanelName } from "./panels";

const Changes = lazy(() => import("./changes").then((file) => ({ default: file.Changes })));
const PullRequests = lazy(() => import("./pull-requests").then((file) => ({ default: file.PullRequests })));

const LABELS: Record<PanelName, { label: string; Sign: typeof Info }> = {
  changes: { label: "Changes", Sign: FileDiff },
  "pull-requests": { label: "Pull request", Sign: GitPullRequest },
  details: { label: "Details", Sign: Info },
};

export function SidePanel({ panel, onPanel, onClose }: { panel: PanelName; onPanel: (panel: PanelName) => void; onClose: () => void }) {
  const standing = useStanding();
  const tabs = useRef<HTMLDivElement>(null);
  useTimelineValue((store) => store.timeline.structure);
  const onKeyDown = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by === undefined) return;
    const next = PANELS[(PANELS.indexOf(panel) + by + PANELS.length) % PANELS.length]!;
    onPanel(next);
    tabs.current?.querySelector<HTMLButtonElement>(`[data-panel="${next}"]`)?.focus();
  };
  return (
    <div className="flex h-full min-h-0 flex-col">
      <div className="flex h-12 shrink-0 items-center gap-1 border-b pr-2 pl-2">
        {/* oxlint-disable-next-line jsx-a11y/interactive-supports-focus -- its tabs hold the focus */}
        <div ref={tabs} role="tablist" aria-label="Beside the timeline" onKeyDown={onKeyDown} className="flex min-w-0 flex-1 gap-0.5">
          {PANELS.map((one) => {
            const { label, Sign } = LABELS[one];
            const count = one === "pull-requests" ? standing.pull_requests.length : 0;
            return (
              <button
                key={one}
                type="button"
                role="tab"
                id={`tab-${one}`}
                data-panel={one}
                aria-selected={panel === one}
                aria-controls="side-panel"
                tabIndex={panel === one ? 0 : -1}
                onClick={() => onPanel(one)}
                className="inline-flex h-7 items-center gap-1.5 rounded-md px-2 text-xs font-medium text-ink-3 hover:bg-hover hover:text-ink aria-selected:bg-hover aria-selected:text-ink coarse:h-10"
              >
                <Sign className="size-3.5" aria-hidden />
                {label}
                {count > 0 && <span className="text-ink-3 tabular">{count}</span>}
              </button>
            );
          })}
        </div>
        <Button look="ghost" size="icon" aria-label="Close the panel" title="Close the panel" onClick={onClose}>
          <X className="size-4" />
        </Button>
      </div>
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- so that the keyboard can scroll it */}
      <div id="side-panel" role="tabpanel" aria-labelledby={`tab-${panel}`} tabIndex={0} className="scroll-thin min-h-0 flex-1 overflow-y-auto outline-none">
        <Suspense fallback={<p className="p-4 text-sm text-ink-3">Fetching…</p>}>
          {panel === "changes" && <Changes />}
          {panel === "pull-requests" && <PullRequests />}
          {panel === "details" && <Details />}
        </Suspense>
      </div>
    </div>
  );
}
