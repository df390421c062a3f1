import type { ReactNode } from "react";

/** A page of the settings: what it is about, then what there is. */
export function SettingsPage({ title, about, actions, children }: { title: string; about: ReactNode; actions?: ReactNode; children: ReactNode }) {
  return (
    <div>
      <title>{`${title} · Open-Inspect`}</title>
      <header className="mb-6 flex flex-wrap items-start gap-x-4 gap-y-3">
        <div className="min-w-0 flex-1">
          <h1 className="text-xl font-semibold tracking-tight">{title}</h1>
          <p className="mt-0.5 max-w-2xl text-sm text-ink-2">{about}</p>
        </div>
        {actions}
      </header>
      <div className="space-y-6">{children}</div>
    </div>
  );
}

export function Rows({ label, children }: { label: string; children: ReactNode }) {
  return (
    <ul aria-label={label} className="divide-y overflow-hidden rounded-xl border bg-surface shadow-card">
      {children}
    </ul>
  );
}

export function Row({ children, dim = false }: { children: ReactNode; dim?: boolean }) {
  return <li className={`flex flex-wrap items-center gap-x-3 gap-y-2 px-4 py-3 ${dim ? "text-ink-3" : ""}`}>{children}</li>;
}

export function Waiting({ what }: { what: string }) {
  return (
    <p role="status" className="rounded-xl border bg-surface px-4 py-6 text-center text-sm text-ink-3">
      Fetching {what}…
    </p>
  );
}
