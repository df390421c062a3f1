import { type ComponentProps, type ReactNode, useId } from "react";

export const fieldLook =
  "h-8 rounded-md border border-line-strong bg-surface px-2.5 text-sm outline-none focus:border-accent focus:ring-2 focus:ring-accent/20 coarse:h-10";
export const fieldClass = `w-full ${fieldLook}`;

export function Field({ label, help, ...rest }: ComponentProps<"input"> & { label: string; help?: ReactNode }) {
  const id = useId();
  return (
    <div className="space-y-1">
      <label htmlFor={id} className="text-sm font-medium">
        {label}
      </label>
      <input id={id} aria-describedby={help ? `${id}-help` : undefined} className={fieldClass} {...rest} />
      {help && (
        <p id={`${id}-help`} className="text-xs text-ink-3">
          {help}
        </p>
      )}
    </div>
  );
}

export function Select({ label, help, children, ...rest }: ComponentProps<"select"> & { label: string; help?: ReactNode }) {
  const id = useId();
  return (
    <div className="space-y-1">
      <label htmlFor={id} className="text-sm font-medium">
        {label}
      </label>
      <select id={id} className={fieldClass} {...rest}>
        {children}
      </select>
      {help && <p className="text-xs text-ink-3">{help}</p>}
    </div>
  );
}
