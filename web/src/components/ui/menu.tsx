/** A button that opens a list of actions. Arrow keys move, Escape closes. */
import { type ComponentProps, type ReactNode, useEffect, useId, useRef, useState } from "react";
import { Button } from "./button";
import { Floating } from "./floating";

export type MenuAction =
  | { label: string; icon?: ReactNode; hint?: string; danger?: boolean; disabled?: boolean; checked?: boolean; onPick: () => void }
  | "line";

type MenuProps = {
  label: string;
  actions: MenuAction[];
  children: ReactNode;
  align?: "start" | "end";
  side?: "top" | "bottom";
} & Pick<ComponentProps<typeof Button>, "look" | "size" | "className" | "disabled">;

export function Menu({ label, actions, children, align = "end", side = "bottom", look = "ghost", size = "icon", className, disabled }: MenuProps) {
  const [open, setOpen] = useState(false);
  const trigger = useRef<HTMLButtonElement>(null);
  const id = useId();
  return (
    <>
      <Button
        ref={trigger}
        look={look}
        size={size}
        className={className}
        disabled={disabled}
        aria-label={label}
        title={label}
        aria-haspopup="menu"
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        onClick={() => setOpen(!open)}
      >
        {children}
      </Button>
      {open && (
        <Floating id={id} role="menu" aria-label={label} anchor={trigger} align={align} side={side} onClose={() => setOpen(false)} className="min-w-48 p-1">
          <Actions
            actions={actions}
            close={() => {
              setOpen(false);
              trigger.current?.focus();
            }}
          />
        </Floating>
      )}
    </>
  );
}

function Actions({ actions, close }: { actions: MenuAction[]; close: () => void }) {
  const list = useRef<HTMLDivElement>(null);
  useEffect(() => buttonsIn(list.current)[0]?.focus(), []);
  return (
    <div
      ref={list}
      role="presentation"
      onKeyDown={(event) => {
        const all = buttonsIn(list.current);
        const at = all.indexOf(document.activeElement as HTMLButtonElement);
        const to = { ArrowDown: at + 1, ArrowUp: at - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
        if (to !== undefined) {
          event.preventDefault();
          all[to % all.length]?.focus();
        } else if (event.key === "Tab") close();
      }}
    >
      {actions.map((action, at) =>
        action === "line" ? (
          // oxlint-disable-next-line react/no-array-index-key -- lines have nothing else to be told by
          <hr key={at} className="my-1" />
        ) : (
          <button
            key={action.label}
            type="button"
            role={action.checked === undefined ? "menuitem" : "menuitemradio"}
            aria-checked={action.checked}
            disabled={action.disabled}
            onClick={() => {
              close();
              action.onPick();
            }}
            className={`flex w-full items-center gap-2.5 rounded-md px-2.5 py-1.5 text-left text-sm outline-none hover:bg-hover focus-visible:bg-hover disabled:opacity-45 coarse:py-2.5 ${action.danger ? "text-bad" : ""}`}
          >
            {action.icon && <span className="text-ink-3 [&>svg]:size-4">{action.icon}</span>}
            <span className="flex-1">{action.label}</span>
            {action.checked && <span aria-hidden>✓</span>}
            {action.hint && <kbd className="font-sans text-xs text-ink-3">{action.hint}</kbd>}
          </button>
        ),
      )}
    </div>
  );
}

function buttonsIn(list: HTMLElement | null): HTMLButtonElement[] {
  return [...(list?.querySelectorAll<HTMLButtonElement>("button:not(:disabled)") ?? [])];
}
