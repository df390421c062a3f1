import { Link } from "@tanstack/react-router";
import { asProblem } from "@/api/problem";
import { Logo } from "@/components/shell/logo";
import { Button, buttonClass } from "@/components/ui/button";

/** A page that could not be shown: what happened, what to do, and a way on. */
export function Broken({ error }: { error: unknown }) {
  const problem = asProblem(error);
  return (
    <Page title={problem.message} text={problem.remedy || "Reload the page. If it happens again, report it with what you did before."}>
      <Button look="primary" onClick={() => location.reload()}>
        Reload
      </Button>
      <a href="/" className={buttonClass("secondary")}>
        All sessions
      </a>
    </Page>
  );
}

export function NotFound() {
  return (
    <Page title="There is nothing at this address." text="It may have been deleted, or the link is not whole.">
      <Link to="/" className={buttonClass("primary")}>
        All sessions
      </Link>
    </Page>
  );
}

export function Page({ title, text, children }: { title: string; text: string; children?: React.ReactNode }) {
  return (
    <main className="grid min-h-[70dvh] flex-1 place-items-center p-6">
      <title>{`${title.replace(/\.$/, "")} · Open-Inspect`}</title>
      <div className="max-w-md text-center">
        <Logo className="mx-auto mb-4 size-8" />
        <h1 className="text-lg font-semibold text-balance break-words">{title}</h1>
        <p className="mt-1.5 text-balance text-ink-2">{text}</p>
        {children && <div className="mt-5 flex justify-center gap-2">{children}</div>}
      </div>
    </main>
  );
}
