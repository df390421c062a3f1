/** Signing in by a link. The secret is in the part of the address behind “#”, which is taken out of it at once. */
import { useNavigate } from "@tanstack/react-router";
import { Terminal } from "lucide-react";
import { useEffect, useState } from "react";
import { POST, given } from "@/api/client";
import { type ApiProblem, asProblem } from "@/api/problem";
import { meQuery, queries } from "@/api/queries";
import { Logo } from "@/components/shell/logo";
import { Button } from "@/components/ui/button";
import { CopyButton } from "@/components/ui/copy-button";
import { fieldClass } from "@/components/ui/field";
import { ProblemNote } from "@/components/ui/problem-note";

const COMMAND = ".venv/bin/openinspect signin";

/** Taken as the script begins, so that the secret stays in the address for as short as can be. */
let linkToken = takeToken();

function takeToken(): string | null {
  if (location.pathname !== "/signin") return null;
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(history.state, "", location.pathname + location.search);
  return token;
}

/** Only a path of our own: what stands in the address could have been put there by anybody. */
function wayBack(): string {
  const to = new URLSearchParams(location.search).get("to");
  if (!to || !to.startsWith("/") || to.startsWith("//") || to.startsWith("/\\")) return "/";
  return to;
}

export function SignIn() {
  const navigate = useNavigate();
  const [busy, setBusy] = useState(linkToken !== null);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const [link, setLink] = useState("");

  const signInWith = (token: string) => {
    setBusy(true);
    setProblem(null);
    given(POST("/api/signin", { body: { token } }))
      .then((me) => {
        queries.setQueryData(meQuery.queryKey, me);
        return navigate({ href: wayBack(), replace: true });
      })
      .catch(async (thrown: unknown) => {
        // a link that was used already is no matter to somebody who is signed in
        const me = await queries.fetchQuery({ ...meQuery, staleTime: 0 }).catch(() => null);
        if (me) return navigate({ href: wayBack(), replace: true });
        setProblem(asProblem(thrown));
        setBusy(false);
      });
  };
  useEffect(() => {
    const token = linkToken;
    linkToken = null;
    if (token) signInWith(token);
    // A link that is opened while this page is already there changes only the part behind “#”.
    const changed = () => {
      const next = takeToken();
      if (next) signInWith(next);
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
    // oxlint-disable-next-line react/exhaustive-deps -- once, when the page opens
  }, []);

  const typed = link.trim();
  const pasted = /token=([^&\s]+)/.exec(typed)?.[1] ?? (/^oi_\w+/.test(typed) ? typed : null);
  return (
    <main className="grid min-h-dvh place-items-center p-5">
      <title>Sign in · Open-Inspect</title>
      <div className="w-full max-w-sm">
        <Logo className="mb-5 size-9" />
        <h1 className="text-xl font-semibold">{busy ? "Signing you in…" : "Sign in"}</h1>
        {!busy && (
          <>
            <p className="mt-1.5 text-ink-2">You sign in with a link that works once. On the machine where the server runs, this prints one in the folder it was set up in:</p>
            <div className="mt-3 flex items-center gap-2 rounded-lg border bg-sunken py-1 pr-1 pl-3 font-mono text-sm">
              <Terminal className="size-4 shrink-0 text-ink-3" aria-hidden />
              <code className="flex-1">{COMMAND}</code>
              <CopyButton text={COMMAND} />
            </div>
            <p className="mt-3 text-sm text-ink-3">
              Where <code className="font-mono">openinspect</code> is a command of the machine, <code className="font-mono">openinspect signin</code> prints one from anywhere.
            </p>
            <p className="mt-2 text-sm text-ink-3">Not your machine? Ask an admin: Settings → Members makes a link for you.</p>
            {problem && (
              <div className="mt-4">
                <ProblemNote problem={problem} />
              </div>
            )}
            <form
              className="mt-6 flex gap-2 border-t pt-5"
              onSubmit={(event) => {
                event.preventDefault();
                if (pasted) signInWith(pasted);
              }}
            >
              <input aria-label="Sign-in link" placeholder="Or paste the link here" autoComplete="off" spellCheck={false} value={link} onChange={(event) => setLink(event.target.value)} className={fieldClass} />
              <Button type="submit" look="primary" disabled={!pasted}>
                Sign in
              </Button>
            </form>
          </>
        )}
      </div>
    </main>
  );
}
