import { useState } from "react";
import { POST, given, whileCloning } from "@/api/client";
import { type ApiProblem, asProblem } from "@/api/problem";
import { queries, repositoriesQuery } from "@/api/queries";
import { Button } from "@/components/ui/button";
import { Elapsed } from "@/components/ui/elapsed";
import { Field } from "@/components/ui/field";
import { ProblemNote } from "@/components/ui/problem-note";
import { say } from "@/components/ui/toasts";

/** Takes a folder of the server's machine, or an address to clone: which of them it is can be seen from what was typed. */
export function AddRepository({ onAdded }: { onAdded?: () => void }) {
  const [place, setPlace] = useState("");
  const [name, setName] = useState("");
  /** When what is being added was sent. */
  const [since, setSince] = useState<string | null>(null);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const typed = place.trim();
  const busy = since !== null;
  const isUrl = /^[a-z][a-z0-9+.-]*:\/\//i.test(typed) || /^(?:[\w.-]+@)?[\w.-]+:/.test(typed);
  return (
    <form
      className="space-y-3"
      onSubmit={(event) => {
        event.preventDefault();
        setSince(new Date().toISOString());
        setProblem(null);
        const named = name.trim() || null;
        given(
          isUrl
            ? POST("/api/repositories", { body: { path: null, url: typed, name: named }, fetch: whileCloning })
            : POST("/api/repositories", { body: { path: typed, url: null, name: named } }),
        )
          .then(
            (repository) => {
              say(`${repository.name} is ready to be worked on.`);
              setPlace("");
              setName("");
              onAdded?.();
              return queries.invalidateQueries({ queryKey: repositoriesQuery.queryKey });
            },
            (thrown: unknown) => setProblem(asProblem(thrown)),
          )
          .finally(() => setSince(null));
      }}
    >
      <div className="grid gap-3 sm:grid-cols-[1fr_12rem]">
        <Field
          label="Folder or address"
          placeholder="/home/you/project or https://…"
          value={place}
          onChange={(event) => setPlace(event.target.value)}
          autoComplete="off"
          spellCheck={false}
          required
          readOnly={busy}
          help={typed === "" ? "A repository on the server’s machine, or one to clone." : isUrl ? "It is cloned to the server." : "A folder on the server’s machine. It stays where it is."}
        />
        <Field
          label="Name"
          placeholder="as the folder"
          value={name}
          onChange={(event) => setName(event.target.value)}
          autoComplete="off"
          spellCheck={false}
          readOnly={busy}
          pattern="[A-Za-z0-9][A-Za-z0-9._\-]{0,99}"
          title="Letters, digits, dots, dashes and underscores"
        />
      </div>
      {problem && <ProblemNote problem={problem} />}
      <div className="flex flex-wrap items-center gap-x-3 gap-y-2">
        <Button type="submit" look="primary" busy={busy} disabled={typed === ""}>
          {busy ? (isUrl ? "Cloning…" : "Adding…") : "Add repository"}
        </Button>
        {since !== null && isUrl && (
          <p role="status" className="text-xs text-ink-3">
            A large repository takes minutes; half an hour at most.{" "}
            <span aria-hidden className="tabular">
              <Elapsed since={since} />
            </span>
          </p>
        )}
      </div>
    </form>
  );
}
