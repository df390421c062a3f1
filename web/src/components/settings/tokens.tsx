import { useQuery } from "@tanstack/react-query";
import { KeyRound, Plus } from "lucide-react";
import { useState } from "react";
import { DELETE, POST, given } from "@/api/client";
import { type ApiProblem, asProblem } from "@/api/problem";
import { queries, tokensQuery } from "@/api/queries";
import type { CreatedToken, Token } from "@/api/types";
import { useMe } from "@/components/shell/me";
import { Ago } from "@/components/ui/ago";
import { Ask } from "@/components/ui/ask";
import { Button } from "@/components/ui/button";
import { CopyButton } from "@/components/ui/copy-button";
import { Dialog } from "@/components/ui/dialog";
import { Empty } from "@/components/ui/empty";
import { Field, Select } from "@/components/ui/field";
import { ProblemNote } from "@/components/ui/problem-note";
import { day } from "@/components/ui/words";
import { Row, Rows, SettingsPage, Waiting } from "./parts";

export function TokensPage() {
  const { data, error } = useQuery(tokensQuery);
  const [making, setMaking] = useState(false);
  const live = data?.filter((one) => one.revoked_at === null) ?? [];
  return (
    <SettingsPage
      title="API tokens"
      about="For scripts and the command line: a token acts as you. It is shown once and kept as a hash."
      actions={
        <Button look="primary" onClick={() => setMaking(true)}>
          <Plus className="size-4" /> New token
        </Button>
      }
    >
      {error && <ProblemNote problem={asProblem(error)} />}
      {!data && !error && <Waiting what="your tokens" />}
      {data && live.length === 0 && <Empty icon={<KeyRound />} title="No tokens" text="Make one to use the API or the command line from another machine." />}
      {live.length > 0 && (
        <Rows label="Tokens">
          {live.map((one) => (
            <TokenRow key={one.id} token={one} />
          ))}
        </Rows>
      )}
      {making && <NewToken onClose={() => setMaking(false)} />}
    </SettingsPage>
  );
}

function TokenRow({ token }: { token: Token }) {
  const [asking, setAsking] = useState(false);
  const expired = token.expires_at !== null && Date.parse(token.expires_at) < Date.now();
  return (
    <Row dim={expired}>
      <div className="min-w-0 flex-1">
        <p className="truncate font-medium">{token.name}</p>
        <p className="text-xs text-ink-3">
          {token.scopes.includes("*") ? "All that you may" : token.scopes.join(", ")} · made {day(token.created_at)}
          {token.expires_at && (
            <>
              {" · "}
              {expired ? "expired" : "until"} {day(token.expires_at)}
            </>
          )}
          {" · "}
          {token.last_used_at ? (
            <>
              last used: <Ago at={token.last_used_at} />
            </>
          ) : (
            "never used"
          )}
        </p>
      </div>
      <Button look="danger" size="sm" onClick={() => setAsking(true)}>
        Revoke
      </Button>
      {asking && (
        <Ask
          title={`Revoke “${token.name}”?`}
          confirm="Revoke"
          danger
          onClose={() => setAsking(false)}
          onConfirm={async () => {
            await given(DELETE("/api/tokens/{token_id}", { params: { path: { token_id: token.id } } }));
            await queries.invalidateQueries({ queryKey: tokensQuery.queryKey });
          }}
        >
          What uses it stops working at once.
        </Ask>
      )}
    </Row>
  );
}

function NewToken({ onClose }: { onClose: () => void }) {
  const { permissions } = useMe();
  const [name, setName] = useState("");
  const [days, setDays] = useState("90");
  const [scopes, setScopes] = useState<string[]>(["*"]);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const [made, setMade] = useState<CreatedToken | null>(null);
  if (made) {
    return (
      <Dialog key="made" title={`“${made.name}” is made`} onClose={onClose}>
        <div className="space-y-4 px-5 pb-5 text-sm">
          <p className="text-ink-2">Copy it now: it can’t be shown again.</p>
          <div className="flex items-center gap-1 rounded-lg border bg-sunken py-1 pr-1 pl-3">
            <code className="min-w-0 flex-1 font-mono text-xs break-all">{made.token}</code>
            <CopyButton text={made.token} label="Copy the token" />
          </div>
          <div className="flex justify-end">
            <Button look="primary" onClick={onClose}>
              I have it
            </Button>
          </div>
        </div>
      </Dialog>
    );
  }
  return (
    <Dialog title="New token" onClose={onClose}>
      <form
        className="scroll-thin space-y-4 overflow-y-auto px-5 pb-5"
        onSubmit={(event) => {
          event.preventDefault();
          setBusy(true);
          setProblem(null);
          given(POST("/api/tokens", { body: { name, scopes, expires_in_days: days === "" ? null : Number(days) } }))
            .then(
              (token) => {
                setMade(token);
                return queries.invalidateQueries({ queryKey: tokensQuery.queryKey });
              },
              (thrown: unknown) => setProblem(asProblem(thrown)),
            )
            .finally(() => setBusy(false));
        }}
      >
        <Field label="Name" placeholder="What it is for" value={name} onChange={(event) => setName(event.target.value)} maxLength={200} required />
        <Select label="Expires" value={days} onChange={(event) => setDays(event.target.value)}>
          <option value="7">in a week</option>
          <option value="30">in 30 days</option>
          <option value="90">in 90 days</option>
          <option value="365">in a year</option>
          <option value="">never</option>
        </Select>
        <fieldset>
          <legend className="mb-1 text-sm font-medium">May do</legend>
          <label className="flex items-center gap-2 py-0.5 text-sm">
            <input type="checkbox" className="accent-(--accent)" checked={scopes.includes("*")} onChange={(event) => setScopes(event.target.checked ? ["*"] : ["sessions.read"])} />
            All that I may
          </label>
          {!scopes.includes("*") && (
            <div className="mt-1 grid gap-x-4 border-l pl-4 sm:grid-cols-2">
              {permissions.map((one) => (
                <label key={one} className="flex items-center gap-2 py-0.5 font-mono text-xs">
                  <input
                    type="checkbox"
                    className="accent-(--accent)"
                    checked={scopes.includes(one)}
                    onChange={(event) => setScopes(event.target.checked ? [...scopes, one] : scopes.filter((scope) => scope !== one))}
                  />
                  {one}
                </label>
              ))}
            </div>
          )}
        </fieldset>
        {problem && <ProblemNote problem={problem} />}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" look="primary" busy={busy} disabled={name.trim() === "" || scopes.length === 0}>
            Make it
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
