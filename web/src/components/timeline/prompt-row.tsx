import { CornerDownRight, Pencil, RotateCw, X } from "lucide-react";
import { useState } from "react";
import { DELETE, attachmentAddress, given } from "@/api/client";
import type { Attachment } from "@/api/types";
import { PromptEditor } from "@/components/composer/prompt-editor";
import { useCan } from "@/components/shell/me";
import { Ago } from "@/components/ui/ago";
import { Avatar } from "@/components/ui/avatar";
import { Button } from "@/components/ui/button";
import { complain } from "@/components/ui/toasts";
import { modelName } from "@/components/ui/words";
import type { PromptItem } from "@/session/items";
import type { Outgoing } from "@/session/session-store";
import { useStore } from "@/session/use-session";

const LONG = 1_200;

export function PromptRow({ item }: { item: PromptItem }) {
  const store = useStore();
  const can = useCan();
  const [editing, setEditing] = useState(false);
  const queued = item.status === "queued";
  return (
    <article aria-label={`Prompt of ${item.author.name}`} className={`group/prompt mt-7 mb-2 rounded-xl border bg-surface px-4 py-3 shadow-card ${item.status === "cancelled" ? "opacity-60" : ""}`}>
      <header className="mb-1.5 flex min-w-0 items-center gap-2 text-xs text-ink-3">
        <Avatar name={item.author.name} id={item.author.id} label={false} />
        <span className="truncate font-medium text-ink">{item.author.name}</span>
        {item.retryOf && (
          <span className="inline-flex items-center gap-1">
            <CornerDownRight className="size-3" aria-hidden />
            tried again
          </span>
        )}
        {queued && <span className="animate-breathe text-accent">waiting for the sandbox</span>}
        {item.status === "cancelled" && <span>cancelled</span>}
        <span className="ml-auto hidden truncate font-mono text-2xs sm:block">
          {modelName(item.model)}
          {item.effort && ` · ${item.effort}`}
        </span>
        {item.at && <Ago at={item.at} className="shrink-0 tabular" />}
        {queued && can("sessions.prompt") && !editing && (
          <span className="-my-1 -mr-1.5 flex">
            <Button look="ghost" size="icon" aria-label="Edit the prompt" title="Edit" onClick={() => setEditing(true)}>
              <Pencil className="size-3.5" />
            </Button>
            <Button
              look="ghost"
              size="icon"
              aria-label="Cancel the prompt"
              title="Cancel"
              onClick={() =>
                given(DELETE("/api/sessions/{session_id}/prompts/{prompt_id}", { params: { path: { session_id: store.id, prompt_id: item.promptId } } })).catch(complain)
              }
            >
              <X className="size-3.5" />
            </Button>
          </span>
        )}
      </header>
      {editing && queued ? <PromptEditor promptId={item.promptId} text={item.text} onDone={() => setEditing(false)} /> : <PromptWords text={item.text} />}
      <Pictures attachments={item.attachments} />
    </article>
  );
}

function PromptWords({ text }: { text: string }) {
  const [whole, setWhole] = useState(false);
  const long = text.length > LONG || text.split("\n").length > 16;
  return (
    <>
      <div className={`text-base leading-[1.5rem] break-words whitespace-pre-wrap [overflow-wrap:anywhere] ${long && !whole ? "line-clamp-[12]" : ""}`}>{text}</div>
      {long && (
        <button type="button" aria-expanded={whole} onClick={() => setWhole(!whole)} className="mt-1 text-xs font-medium text-accent hover:underline">
          {whole ? "Show less" : "Show all of it"}
        </button>
      )}
    </>
  );
}

function Pictures({ attachments }: { attachments: readonly Attachment[] }) {
  const { id } = useStore();
  if (attachments.length === 0) return null;
  return (
    <ul className="mt-2.5 flex flex-wrap gap-2">
      {attachments.map((one) => (
        <li key={one.id}>
          <a href={attachmentAddress(id, one.id)} target="_blank" rel="noreferrer" className="block overflow-hidden rounded-lg border">
            <img src={attachmentAddress(id, one.id)} alt={one.name} loading="lazy" decoding="async" className="h-24 max-w-48 bg-sunken object-cover" />
          </a>
        </li>
      ))}
    </ul>
  );
}

/** A prompt that the server does not have yet. */
export function OutgoingRow({ outgoing }: { outgoing: Outgoing }) {
  const store = useStore();
  return (
    <article className="mt-7 rounded-xl border border-dashed bg-surface px-4 py-3" aria-busy={outgoing.problem === null}>
      <div className="text-base break-words whitespace-pre-wrap text-ink-2">{outgoing.body.text}</div>
      <div className="mt-1.5 flex flex-wrap items-center gap-2 text-xs text-ink-3">
        {outgoing.problem ? (
          <>
            <span role="alert" className="min-w-0 flex-1 text-bad">
              Not sent: {outgoing.problem.message} {outgoing.problem.remedy}
            </span>
            <Button size="sm" onClick={() => store.sendAgain(outgoing.key)}>
              <RotateCw className="size-3.5" /> Send again
            </Button>
            <Button size="sm" look="ghost" onClick={() => store.discard(outgoing.key)}>
              Discard
            </Button>
          </>
        ) : (
          <span className="animate-breathe">Sending…</span>
        )}
      </div>
    </article>
  );
}
