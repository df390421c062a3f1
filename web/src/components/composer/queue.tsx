import { ImageIcon, ListOrdered, Pencil, X } from "lucide-react";
import { useState } from "react";
import { DELETE, given } from "@/api/client";
import type { Prompt } from "@/api/types";
import { useCan } from "@/components/shell/me";
import { Avatar } from "@/components/ui/avatar";
import { Button } from "@/components/ui/button";
import { complain } from "@/components/ui/toasts";
import { modelName } from "@/components/ui/words";
import { useStanding, useStore, useTimelineValue } from "@/session/use-session";
import { PromptEditor } from "./prompt-editor";

/** What waits for its turn, in order. The next one stands in the timeline when nothing runs. */
export function Queue() {
  const standing = useStanding();
  const structure = useTimelineValue((store) => store.timeline.structure);
  const store = useStore();
  // oxlint-disable-next-line no-unused-expressions -- read anew when items come or go
  structure;
  const waiting = standing.prompts.filter((one) => one.status === "queued" && !store.timeline.items.has(`prompt:${one.id}`));
  if (waiting.length === 0) return null;
  return (
    <section aria-label="Queue" className="mx-2 -mb-px rounded-t-xl border border-b-0 bg-sunken px-1 pt-1 pb-0.5">
      <h2 className="flex items-center gap-1.5 px-2 py-0.5 text-2xs font-medium text-ink-3">
        <ListOrdered className="size-3" aria-hidden /> Up next
      </h2>
      <ol className="scroll-thin max-h-44 overflow-y-auto">
        {waiting.map((prompt) => (
          <Waiting key={prompt.id} prompt={prompt} other={prompt.model !== standing.model} />
        ))}
      </ol>
    </section>
  );
}

function Waiting({ prompt, other }: { prompt: Prompt; other: boolean }) {
  const store = useStore();
  const can = useCan();
  const [editing, setEditing] = useState(false);
  const [busy, setBusy] = useState(false);
  const cancel = () => {
    setBusy(true);
    given(DELETE("/api/sessions/{session_id}/prompts/{prompt_id}", { params: { path: { session_id: store.id, prompt_id: prompt.id } } }))
      .catch(complain)
      .finally(() => setBusy(false));
  };
  if (editing) {
    return (
      <li className="px-2 py-1.5">
        <PromptEditor promptId={prompt.id} text={prompt.text} onDone={() => setEditing(false)} />
      </li>
    );
  }
  return (
    <li className="group/waiting flex min-w-0 items-center gap-2 rounded-md px-2 py-0.5 text-sm hover:bg-hover">
      <Avatar name={prompt.author.name} id={prompt.author.id} size={16} />
      <span className="min-w-0 flex-1 truncate">{prompt.text || "Pictures"}</span>
      {(prompt.attachments?.length ?? 0) > 0 && <ImageIcon className="size-3.5 shrink-0 text-ink-3" aria-label="with pictures" />}
      {other && <span className="hidden shrink-0 font-mono text-2xs text-ink-3 sm:inline">{modelName(prompt.model)}</span>}
      {can("sessions.prompt") && (
        <span className="flex shrink-0">
          <Button look="ghost" size="icon" aria-label="Edit" title="Edit" onClick={() => setEditing(true)}>
            <Pencil className="size-3.5" />
          </Button>
          <Button look="ghost" size="icon" aria-label="Cancel" title="Cancel" busy={busy} onClick={cancel}>
            <X className="size-3.5" />
          </Button>
        </span>
      )}
    </li>
  );
}
