/** The foot of a session: what is asked next, what waits, and the way to stop. */
import { Square } from "lucide-react";
import { type RefObject, useEffect, useRef, useState } from "react";
import { uploadAttachment } from "@/api/client";
import { useCan, useMe } from "@/components/shell/me";
import { Button } from "@/components/ui/button";
import { Kbd } from "@/components/ui/kbd";
import { complain } from "@/components/ui/toasts";
import { plural } from "@/components/ui/words";
import { isUnfinished } from "@/session/standing";
import { useStanding, useStore } from "@/session/use-session";
import { useDraft } from "./draft";
import { type ModelChoice, ModelPicker } from "./model-picker";
import { usePictures } from "./pictures";
import { PromptBox } from "./prompt-box";
import { Queue } from "./queue";

const TYPING_MS = 4_000;

export function SessionComposer({ area, onStop }: { area: RefObject<HTMLTextAreaElement | null>; onStop: () => void }) {
  const store = useStore();
  const standing = useStanding();
  const can = useCan();
  const { server } = useMe();
  const [text, setText] = useDraft(standing.id);
  const [choice, setChoice] = useState<ModelChoice | null>(null);
  const [busy, setBusy] = useState(false);
  const pictures = usePictures();
  const typing = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(typing.current), []);

  const running = standing.prompts.find((one) => one.status === "running");
  const unfinished = standing.prompts.filter(isUnfinished).length;
  const model = choice ?? { model: standing.model, effort: standing.effort };

  if (!can("sessions.prompt")) return <p className="px-1 py-3 text-sm text-ink-3">You may watch this session. To prompt it, ask an admin for the role of a member.</p>;
  if (standing.status !== "active") return null;

  const notTyping = () => {
    clearTimeout(typing.current);
    store.say({ type: "here", state: "active", typing: false });
  };
  const onText = (next: string) => {
    setText(next);
    store.say({ type: "here", state: "active", typing: next !== "" });
    clearTimeout(typing.current);
    typing.current = setTimeout(notTyping, TYPING_MS);
  };
  const send = async () => {
    setBusy(true);
    try {
      const attachments: string[] = [];
      for (const picture of pictures.pictures) attachments.push((await uploadAttachment(standing.id, picture.file)).id);
      void store.send({ text, attachments, model: choice?.model ?? null, effort: choice?.effort ?? null });
      setText("");
      pictures.clear();
      notTyping();
    } catch (thrown) {
      complain(thrown);
    } finally {
      setBusy(false);
      area.current?.focus();
    }
  };
  const full = unfinished >= server.max_unfinished_prompts;
  return (
    <>
      <Queue />
      <PromptBox
        area={area}
        text={text}
        onText={onText}
        pictures={pictures}
        busy={busy}
        blocked={full ? `${plural(unfinished, "prompt")} are unfinished: wait for one, or cancel one.` : undefined}
        onSend={() => void send()}
        sendLabel={unfinished > 0 ? "Queue" : "Send"}
        placeholder={unfinished > 0 ? "Ask for what comes next…" : standing.prompts.length > 0 ? "Ask for a change…" : "Describe a task…"}
        tools={<ModelPicker side="top" value={model} onPick={setChoice} />}
        actions={
          running && (
            <Button size="sm" look="danger" className="h-7.5" onClick={onStop} disabled={running.stop_requested} aria-label={running.stop_requested ? "Stopping" : "Stop the agent"}>
              <Square className="size-3 fill-current" aria-hidden />
              <span className="max-sm:sr-only">{running.stop_requested ? "Stopping…" : "Stop"}</span>
              <Kbd>Esc</Kbd>
            </Button>
          )
        }
      />
    </>
  );
}
