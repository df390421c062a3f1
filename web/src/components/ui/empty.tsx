import type { ReactNode } from "react";

/** Says what will stand here, and how it comes about. */
export function Empty({ icon, title, text, children }: { icon: ReactNode; title: string; text: ReactNode; children?: ReactNode }) {
  return (
    <div className="flex flex-col items-center px-6 py-14 text-center">
      <span className="mb-3 grid size-10 place-items-center rounded-xl border bg-surface text-ink-3 [&>svg]:size-5">{icon}</span>
      <p className="text-md font-medium">{title}</p>
      <p className="mt-1 max-w-sm text-sm text-balance text-ink-3">{text}</p>
      {children && <div className="mt-4">{children}</div>}
    </div>
  );
}
