import { MessageCircleQuestion } from "lucide-react";
import { useState } from "react";
import { POST, given } from "@/api/client";
import type { Question } from "@/api/types";
import { useCan } from "@/components/shell/me";
import { Button } from "@/components/ui/button";
import { fieldClass } from "@/components/ui/field";
import { complain } from "@/components/ui/toasts";
import { clock, exact } from "@/components/ui/words";
import type { QuestionItem } from "@/session/items";
import { useStore } from "@/session/use-session";

/** What the agent wants to know. It waits until the deadline; then it goes on by itself. */
export function QuestionRow({ item }: { item: QuestionItem }) {
  const can = useCan();
  const open = item.outcome === "open";
  return (
    <div role="group" aria-label="Question of the agent" className={`my-2 rounded-xl border px-4 py-3 ${open ? "border-warn/50 bg-warn-soft" : "bg-surface"}`}>
      <header className="mb-2 flex items-center gap-2 text-xs text-ink-2">
        <MessageCircleQuestion className={`size-4 shrink-0 ${open ? "text-warn" : "text-ink-3"}`} aria-hidden />
        {open ? (
          <span>
            The agent waits for an answer until <time dateTime={item.deadline} title={exact(item.deadline)}>{clock(item.deadline)}</time>
            {item.fallback && <>. After that it is told: “{item.fallback}”</>}
          </span>
        ) : (
          <span>{item.outcome === "answered" ? `${item.by?.name ?? "Somebody"} answered` : item.outcome === "timed_out" ? `Not answered in time. The agent was told: “${item.fallback}”` : "No longer asked"}</span>
        )}
      </header>
      {open && can("sessions.prompt") ? (
        <AnswerForm item={item} />
      ) : (
        <dl className="space-y-2 text-sm">
          {item.questions.map((question, at) => (
            <div key={question.text}>
              <dt className="font-medium">{question.text}</dt>
              {item.answers[at] && <dd className="text-ink-2">{item.answers[at].join(", ")}</dd>}
            </div>
          ))}
        </dl>
      )}
    </div>
  );
}

function AnswerForm({ item }: { item: QuestionItem }) {
  const { id } = useStore();
  const [chosen, setChosen] = useState<string[][]>(() => item.questions.map(() => []));
  const [own, setOwn] = useState<string[]>(() => item.questions.map(() => ""));
  const [busy, setBusy] = useState(false);
  const answers = item.questions.map((_, at) => [...(chosen[at] ?? []), ...(own[at]?.trim() ? [own[at].trim()] : [])]);
  const toggle = (at: number, question: Question, label: string) =>
    setChosen(
      chosen.map((labels, place) => {
        if (place !== at) return labels;
        if (question.multiple) return labels.includes(label) ? labels.filter((one) => one !== label) : [...labels, label];
        return [label];
      }),
    );
  return (
    <form
      className="space-y-4"
      onSubmit={(event) => {
        event.preventDefault();
        setBusy(true);
        given(
          POST("/api/sessions/{session_id}/questions/{question_id}", { params: { path: { session_id: id, question_id: item.questionId } }, body: { answers } }),
        )
          .catch(complain)
          .finally(() => setBusy(false));
      }}
    >
      {item.questions.map((question, at) => (
        <fieldset key={question.text} className="space-y-1.5">
          <legend className="mb-1.5 text-base font-medium">{question.text}</legend>
          {question.options.map((option) => (
            <label key={option.label} className="flex cursor-pointer items-start gap-2.5 rounded-lg border bg-surface px-3 py-2 text-sm hover:border-line-strong has-checked:border-accent">
              <input
                type={question.multiple ? "checkbox" : "radio"}
                name={`${item.id}-${at}`}
                checked={chosen[at]?.includes(option.label) ?? false}
                onChange={() => toggle(at, question, option.label)}
                className="mt-1 accent-(--accent)"
              />
              <span>
                <span className="font-medium">{option.label}</span>
                {option.description && option.description !== option.label && <span className="block text-ink-2">{option.description}</span>}
              </span>
            </label>
          ))}
          <input
            className={fieldClass}
            aria-label="Answer in your own words"
            placeholder={question.options.length > 0 ? "Or in your own words" : "Your answer"}
            value={own[at] ?? ""}
            onChange={(event) => setOwn(own.map((words, place) => (place === at ? event.target.value : words)))}
          />
        </fieldset>
      ))}
      <Button type="submit" look="primary" busy={busy} disabled={answers.some((one) => one.length === 0)}>
        Answer
      </Button>
    </form>
  );
}
