import { useEffect, useRef, useState } from "react";
import { PATCH, given } from "@/api/client";
import { type ApiProblem, asProblem } from "@/api/problem";
import { Button } from "@/components/ui/button";
import { useStore } from "@/session/use-session";

/** Changes the words of a prompt that still waits. */
export function PromptEditor({ promptId, text, onDone }: { promptId: string; text: string; onDone: () => void }) {
  const { id } = useStore();
  const [words, setWords] = useState(text);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
    // oxlint-disable-next-line react/exhaustive-deps -- only when it opens
  }, []);
  const save = () => {
    setBusy(true);
    given(PATCH("/api/sessions/{session_id}/prompts/{prompt_id}", { params: { path: { session_id: id, prompt_id: promptId } }, body: { text: words } })).then(
      onDone,
      (thrown: unknown) => {
        setBusy(false);
        setProblem(asProblem(thrown));
      },
    );
  };
  return (
    <div className="space-y-2">
      <textarea
        ref={area}
        value={words}
        aria-label="The prompt"
        rows={Math.min(10, words.split("\n").length + 1)}
        onChange={(event) => setWords(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) save();
          if (event.key === "Escape") {
            event.stopPropagation();
            onDone();
          }
        }}
        className="block w-full resize-y rounded-md border border-line-strong bg-surface px-2.5 py-1.5 text-base outline-none focus:border-accent"
      />
      {problem && (
        <p role="alert" className="text-xs text-bad">
          {problem.message} {problem.remedy}
        </p>
      )}
      <div className="flex gap-2">
        <Button look="primary" size="sm" busy={busy} disabled={words.trim() === ""} onClick={save}>
          Save
        </Button>
        <Button look="ghost" size="sm" onClick={onDone}>
          Leave as it is
        </Button>
      </div>
    </div>
  );
}
