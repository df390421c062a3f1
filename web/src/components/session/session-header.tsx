import { useNavigate } from "@tanstack/react-router";
import { Archive, ArchiveRestore, ArrowLeft, Ellipsis, Link2, PanelRight, Pencil, Trash2 } from "lucide-react";
import { useState } from "react";
import { DELETE, PATCH, POST, given } from "@/api/client";
import { queries } from "@/api/queries";
import { ActivityMark } from "@/components/marks/activity-mark";
import { PullRequestMark } from "@/components/marks/pull-request-mark";
import { useCan, useMe } from "@/components/shell/me";
import { Ask } from "@/components/ui/ask";
import { Button } from "@/components/ui/button";
import { copyText } from "@/components/ui/clipboard";
import { Menu } from "@/components/ui/menu";
import { complain, say } from "@/components/ui/toasts";
import { money } from "@/components/ui/words";
import { useStanding } from "@/session/use-session";
import { Presence } from "./presence";
import type { PanelName } from "./panels";
import { StateStrip } from "./state-strip";
import { titleOf } from "./title";

export function SessionHeader({ panel, onPanel }: { panel: PanelName | null; onPanel: (panel: PanelName | null) => void }) {
  const standing = useStanding();
  const can = useCan();
  const { user } = useMe();
  const navigate = useNavigate();
  const [renaming, setRenaming] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const path = { session_id: standing.id };
  const mayDelete = can("sessions.manage") && (standing.owner.id === user.id || can("sessions.delete_any"));
  const archived = standing.status === "archived";
  const target = standing.targets[0];
  return (
    <header className="@container flex h-12 shrink-0 items-center gap-1.5 border-b pr-1.5 pl-1.5 sm:gap-2 sm:pr-2 sm:pl-4">
      <Button look="ghost" size="icon" className="sm:hidden" aria-label="All sessions" onClick={() => navigate({ to: "/" })}>
        <ArrowLeft className="size-4" />
      </Button>
      <ActivityMark session={standing} />
      <div className="min-w-0 flex-1">
        {renaming ? (
          <TitleField onDone={() => setRenaming(false)} />
        ) : (
          <h1 className="flex min-w-0 items-center gap-2">
            <button
              type="button"
              disabled={!can("sessions.manage")}
              onClick={() => setRenaming(true)}
              title={can("sessions.manage") ? "Rename" : undefined}
              className="-mx-1 truncate rounded px-1 text-base leading-5 font-semibold enabled:cursor-text enabled:hover:bg-hover"
            >
              {titleOf(standing)}
            </button>
          </h1>
        )}
        {target && (
          <p className="flex min-w-0 gap-1.5 text-2xs leading-4 text-ink-3">
            <span className="max-w-[60%] shrink-0 truncate">{target.repository}</span>
            <span className="shrink-0" aria-hidden>
              ·
            </span>
            <span className="truncate font-mono" title={`${target.work_branch}, from ${target.base_branch}`}>
              {target.work_branch}
            </span>
            {standing.targets.length > 1 && <span className="shrink-0">+{standing.targets.length - 1}</span>}
          </p>
        )}
      </div>
      <Presence />
      {standing.pull_requests.slice(-1).map((one) => (
        <button key={one.id} type="button" onClick={() => onPanel("pull-requests")} className="flex shrink-0 items-center rounded-full hover:brightness-95 coarse:h-10">
          <PullRequestMark pullRequest={one} />
        </button>
      ))}
      {standing.prompts.length > 0 && (
        <span className="hidden text-xs text-ink-3 tabular md:block" title="What the models have cost so far">
          {money(standing.cost_usd)}
        </span>
      )}
      <StateStrip />
      <Menu
        label="More"
        actions={[
          {
            label: "Copy the address",
            icon: <Link2 />,
            onPick: () => void copyText(location.href.replace(/#.*/, "")).then(() => say("Copied."), complain),
          },
          ...(can("sessions.manage")
            ? ([
                { label: "Rename", icon: <Pencil />, onPick: () => setRenaming(true) },
                archived
                  ? { label: "Restore", icon: <ArchiveRestore />, onPick: () => void act(given(POST("/api/sessions/{session_id}/restore", { params: { path } })), "Restored.") }
                  : { label: "Archive", icon: <Archive />, onPick: () => void act(given(POST("/api/sessions/{session_id}/archive", { params: { path } })), "Archived. Its sandbox is stopped; everything else is kept.") },
              ] as const)
            : []),
          ...(mayDelete ? (["line", { label: "Delete…", icon: <Trash2 />, danger: true, onPick: () => setDeleting(true) }] as const) : []),
        ]}
      >
        <Ellipsis className="size-4" />
      </Menu>
      <Button look="ghost" size="icon" aria-label="Changes and details" title="Changes and details" aria-pressed={panel !== null} className="aria-pressed:bg-hover aria-pressed:text-ink" onClick={() => onPanel(panel === null ? "changes" : null)}>
        <PanelRight className="size-4" />
      </Button>
      {deleting && (
        <Ask
          title="Delete this session?"
          confirm="Delete"
          danger
          onClose={() => setDeleting(false)}
          onConfirm={async () => {
            await given(DELETE("/api/sessions/{session_id}", { params: { path } }));
            await queries.invalidateQueries({ queryKey: ["sessions"] });
            await navigate({ to: "/" });
          }}
        >
          Its transcript, its sandbox and all files in it go, and can’t be brought back. What was pushed and its pull requests stay.
        </Ask>
      )}
    </header>
  );
}

function act(call: Promise<unknown>, done: string): Promise<void> {
  return call.then(() => {
    say(done);
    return queries.invalidateQueries({ queryKey: ["sessions"] });
  }, complain);
}

function TitleField({ onDone }: { onDone: () => void }) {
  const standing = useStanding();
  const [title, setTitle] = useState(standing.title ?? "");
  const save = () => {
    onDone();
    const next = title.trim();
    if (next === "" || next === standing.title) return;
    given(PATCH("/api/sessions/{session_id}", { params: { path: { session_id: standing.id } }, body: { title: next } })).catch(complain);
  };
  return (
    <input
      // oxlint-disable-next-line jsx-a11y/no-autofocus -- it takes the place of what was pressed
      autoFocus
      value={title}
      maxLength={200}
      aria-label="Title"
      placeholder="Title"
      onFocus={(event) => event.target.select()}
      onChange={(event) => setTitle(event.target.value)}
      onBlur={save}
      onKeyDown={(event) => {
        if (event.key === "Enter") save();
        if (event.key === "Escape") {
          event.stopPropagation();
          onDone();
        }
      }}
      className="-mx-1 w-full max-w-xl rounded bg-transparent px-1 text-base leading-5 font-semibold outline-2 outline-accent"
    />
  );
}
