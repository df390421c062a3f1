/** Begins a session: where, on which branch, with which model, and what shall be done. */
import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { FolderGit2, GitBranch, Plus } from "lucide-react";
import { useRef, useState } from "react";
import { POST, given, uploadAttachment } from "@/api/client";
import { ApiProblem, asProblem } from "@/api/problem";
import { branchesQuery, modelsQuery, queries, repositoriesQuery, sessionsQuery } from "@/api/queries";
import { requestKey } from "@/api/request-key";
import { useDraft } from "@/components/composer/draft";
import { type ModelChoice, ModelPicker } from "@/components/composer/model-picker";
import { usePictures } from "@/components/composer/pictures";
import { PromptBox } from "@/components/composer/prompt-box";
import { AddRepository } from "@/components/settings/add-repository";
import { useKeys } from "@/components/shell/keys";
import { useCan, useMe } from "@/components/shell/me";
import { Picker } from "@/components/ui/picker";
import { ProblemNote } from "@/components/ui/problem-note";
import { remember, remembered } from "./remembered";

const NONE = "—none—";

export function HomeComposer() {
  const navigate = useNavigate();
  const can = useCan();
  const { server } = useMe();
  const { data: repositories, error } = useQuery(repositoriesQuery);
  const { data: models } = useQuery(modelsQuery);
  const [text, setText] = useDraft("home");
  const [last] = useState(remembered);
  const [picked, setPicked] = useState<string | null>(last.repository ?? null);
  const [branch, setBranch] = useState<string | null>(null);
  const [choice, setChoice] = useState<ModelChoice | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const pictures = usePictures();
  const area = useRef<HTMLTextAreaElement>(null);
  /** The same try keeps its key, so that an answer that got lost does not make a second session. */
  const attempt = useRef<{ print: string; key: string; uploaded: Map<string, string> }>(null);

  useKeys({ "/": () => area.current?.focus() });

  // Where the last session worked, until somebody has chosen here. Looked up once: others' sessions don't change it under one's fingers.
  const first = useInfiniteQuery({ ...sessionsQuery({ status: "active", mine: false, q: "" }), enabled: picked === null });
  const [newest, setNewest] = useState<string | null>(null);
  if (newest === null && picked === null && repositories && repositories.length > 0 && (first.data || first.error)) {
    const used = first.data?.pages[0]?.items.map((one) => one.targets[0]?.repository_id) ?? [];
    setNewest(used.find((id) => repositories.some((one) => one.id === id)) ?? repositories[0]!.id);
  }
  const wanted = picked ?? (repositories?.length === 0 ? NONE : newest);
  const known = repositories !== undefined && wanted !== null;

  const repository = wanted === null || wanted === NONE ? null : (repositories?.find((one) => one.id === wanted) ?? repositories?.[0] ?? null);
  const { data: branches = [], error: branchesError } = useQuery({ ...branchesQuery(repository?.id ?? ""), enabled: repository !== null });
  const kept = last.model !== undefined && models?.some((one) => one.id === last.model && one.available);
  const firstUsable = models?.some((one) => one.id === server.default_model && one.available) ? server.default_model : (models?.find((one) => one.available)?.id ?? server.default_model);
  const model: ModelChoice = choice ?? (kept ? { model: last.model!, effort: last.effort ?? null } : { model: firstUsable, effort: null });
  const noModel = models !== undefined && !models.some((one) => one.available);

  const send = async () => {
    setBusy(true);
    setProblem(null);
    const files = pictures.pictures;
    const print = JSON.stringify([text, repository?.id, branch, model, files.map((one) => one.key)]);
    if (attempt.current?.print !== print) attempt.current = { print, key: requestKey(), uploaded: new Map() };
    const { key, uploaded } = attempt.current;
    try {
      // Pictures belong to a session, so with some the session comes first and its prompt after them.
      const prompt = { text, attachments: [], client_request_id: `${key}-prompt` };
      const session = await given(
        POST("/api/sessions", {
          body: {
            targets: repository ? [{ repository: repository.id, branch }] : [],
            model: model.model,
            effort: model.effort,
            prompt: files.length === 0 ? prompt : null,
            client_request_id: key,
          },
        }),
      );
      if (files.length > 0) {
        for (const one of files) if (!uploaded.has(one.key)) uploaded.set(one.key, (await uploadAttachment(session.id, one.file)).id);
        await given(
          POST("/api/sessions/{session_id}/prompts", {
            params: { path: { session_id: session.id } },
            body: { ...prompt, attachments: files.map((one) => uploaded.get(one.key)!) },
          }),
        );
      }
      remember({ repository: repository?.id ?? NONE, model: model.model, effort: model.effort });
      setText("");
      pictures.clear();
      attempt.current = null;
      void queries.invalidateQueries({ queryKey: ["sessions"] });
      await navigate({ to: "/sessions/$sessionId", params: { sessionId: session.id } });
    } catch (thrown) {
      const { status, code, message, remedy } = asProblem(thrown);
      setProblem(status === 0 ? new ApiProblem(status, code, `Not started: ${message.charAt(0).toLowerCase()}${message.slice(1)}`, "What you wrote is kept. Started again, it never counts twice.") : new ApiProblem(status, code, message, remedy));
    } finally {
      setBusy(false);
    }
  };

  const shown = problem ?? (error && asProblem(error).status !== 0 ? asProblem(error) : null);
  if (repositories?.length === 0 && can("repositories.manage")) {
    return (
      <div className="rounded-xl border bg-surface p-5 shadow-card">
        <h2 className="text-md font-semibold">Add a repository to begin with</h2>
        <p className="mt-0.5 mb-4 text-sm text-ink-2">The agent works in a copy of it, on a branch of its own. Yours is never touched until you merge.</p>
        <AddRepository />
      </div>
    );
  }
  return (
    <div data-composer className="space-y-3">
      <PromptBox
        area={area}
        rows={3}
        // oxlint-disable-next-line jsx-a11y/no-autofocus -- on the first page it is what people come for
        autoFocus={matchMedia("(pointer: fine)").matches}
        text={text}
        onText={setText}
        pictures={pictures}
        busy={busy}
        waiting={!known}
        blocked={noModel ? "No model can be used yet: see Settings → Models." : !repositories && error ? "Nothing can be started until the server answers." : undefined}
        onSend={() => void send()}
        sendLabel={busy ? "Starting…" : "Start"}
        placeholder="Describe a task. The agent works on it in a sandbox and comes back with a pull request."
        tools={
          <>
            <Picker
              label="Repository"
              icon={<FolderGit2 />}
              value={repository?.id ?? (known ? NONE : null)}
              placeholder="Repository"
              options={[...(repositories ?? []).map((one) => ({ value: one.id, label: one.name, hint: one.origin_url ?? one.location })), { value: NONE, label: "No repository", hint: "An empty work folder" }]}
              onPick={(id) => {
                setPicked(id);
                setBranch(null);
              }}
              footer={
                can("repositories.manage") && (
                  <Link to="/settings/repositories" className="flex items-center gap-2 rounded-md px-2.5 py-1.5 text-sm text-ink-2 hover:bg-hover">
                    <Plus className="size-4" /> Add a repository
                  </Link>
                )
              }
            />
            {repository && (
              <Picker
                label="Branch to begin from"
                icon={<GitBranch />}
                value={branch ?? repository.default_branch ?? branches.find((one) => one.is_default)?.name ?? null}
                placeholder={branches.length > 0 ? "Default branch" : "No branch yet"}
                empty={branchesError ? asProblem(branchesError).message : "This repository is empty: the work begins with its first commit."}
                options={branches.map((one) => ({ value: one.name, label: one.name, hint: one.is_default ? "Default" : undefined }))}
                onPick={setBranch}
              />
            )}
            <ModelPicker value={model} onPick={setChoice} />
          </>
        }
      />
      {/* That the server can't be reached is told once, by the list below. */}
      {shown && <ProblemNote problem={shown} />}
    </div>
  );
}
