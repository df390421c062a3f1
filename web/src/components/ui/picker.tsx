/** Choose one of several: a button that shows the choice, and a list that can be searched. */
import { Check, ChevronsUpDown } from "lucide-react";
import { type ReactNode, useEffect, useId, useRef, useState } from "react";
import { Floating } from "./floating";

export type Option = {
  value: string;
  label: string;
  /** A second line, or what stands in the way when it can't be chosen. */
  hint?: string;
  group?: string;
  disabled?: boolean;
};

type PickerProps = {
  label: string;
  options: Option[];
  value: string | null;
  onPick: (value: string) => void;
  icon?: ReactNode;
  placeholder?: string;
  /** What to say when there is nothing to choose from. */
  empty?: ReactNode;
  disabled?: boolean;
  side?: "top" | "bottom";
  className?: string;
  /** Below the list: a way to something that is not in it. */
  footer?: ReactNode;
};

export function Picker({ label, options, value, onPick, icon, placeholder = "Choose", empty = "Nothing to choose from", disabled, side, className = "", footer }: PickerProps) {
  const [open, setOpen] = useState(false);
  const trigger = useRef<HTMLButtonElement>(null);
  const id = useId();
  const chosen = options.find((one) => one.value === value);
  const shown = chosen?.label ?? value ?? placeholder;
  const close = () => {
    setOpen(false);
    trigger.current?.focus();
  };
  return (
    <>
      <button
        ref={trigger}
        type="button"
        disabled={disabled}
        aria-label={`${label}: ${shown}`}
        title={`${label}: ${shown}`}
        aria-haspopup="listbox"
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        onClick={() => setOpen(!open)}
        className={`inline-flex h-7 max-w-56 min-w-0 items-center gap-1.5 rounded-md px-2 text-xs font-medium text-ink-2 transition-colors hover:bg-hover hover:text-ink disabled:pointer-events-none disabled:opacity-50 aria-expanded:bg-hover coarse:h-9 ${className}`}
      >
        {icon && <span className="shrink-0 text-ink-3 [&>svg]:size-3.5">{icon}</span>}
        <span className="truncate">{shown}</span>
        <ChevronsUpDown className="hidden size-3 shrink-0 text-ink-3 sm:block" aria-hidden />
      </button>
      {open && (
        <Floating anchor={trigger} side={side} onClose={() => setOpen(false)} className="w-72">
          <List id={id} label={label} options={options} value={value} empty={empty} footer={footer} close={close} onPick={onPick} />
        </Floating>
      )}
    </>
  );
}

type ListProps = Pick<PickerProps, "label" | "options" | "value" | "onPick" | "empty" | "footer"> & { id: string; close: () => void };

function List({ id, label, options, value, onPick, empty, footer, close }: ListProps) {
  const [words, setWords] = useState("");
  const [active, setActive] = useState(value);
  const search = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLDivElement>(null);
  const needle = words.trim().toLowerCase();
  const shown = needle ? options.filter((one) => `${one.label} ${one.group ?? ""} ${one.hint ?? ""}`.toLowerCase().includes(needle)) : options;
  const usable = shown.filter((one) => !one.disabled);
  const current = usable.some((one) => one.value === active) ? active : (usable[0]?.value ?? null);

  useEffect(() => search.current?.focus(), []);
  useEffect(() => {
    list.current?.querySelector('[data-active="true"]')?.scrollIntoView({ block: "nearest" });
  }, [current]);

  const pick = (choice: string) => {
    onPick(choice);
    close();
  };
  const move = (by: number) => {
    const at = usable.findIndex((one) => one.value === current);
    setActive(usable[(at + by + usable.length) % usable.length]?.value ?? null);
  };
  return (
    <>
      <input
        ref={search}
        value={words}
        onChange={(event) => setWords(event.target.value)}
        role="combobox"
        aria-expanded
        aria-controls={id}
        aria-activedescendant={current === null ? undefined : `${id}-${current}`}
        aria-label={`Search: ${label}`}
        placeholder={`${label}…`}
        spellCheck={false}
        autoComplete="off"
        className="w-full border-b bg-transparent px-3 py-2.5 text-sm outline-none"
        onKeyDown={(event) => {
          if (event.key === "ArrowDown" || event.key === "ArrowUp") {
            event.preventDefault();
            if (usable.length > 0) move(event.key === "ArrowDown" ? 1 : -1);
          } else if (event.key === "Enter") {
            event.preventDefault();
            if (current !== null) pick(current);
          } else if (event.key === "Tab") close();
        }}
      />
      <div ref={list} id={id} role="listbox" aria-label={label} className="scroll-thin max-h-80 flex-1 overflow-y-auto p-1">
        {shown.length === 0 && <p className="px-2.5 py-3 text-sm text-ink-3">{needle ? `Nothing matches “${words.trim()}”.` : empty}</p>}
        {shown.map((one, at) => (
          <div key={one.value} role="presentation">
            {one.group && one.group !== shown[at - 1]?.group && (
              <div className="px-2.5 pt-2 pb-1 text-2xs font-medium text-ink-3" aria-hidden>
                {one.group}
              </div>
            )}
            {/* oxlint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/interactive-supports-focus -- the search field holds the focus and the keys */}
            <div
              id={`${id}-${one.value}`}
              role="option"
              aria-selected={one.value === value}
              aria-disabled={one.disabled}
              data-active={one.value === current}
              onPointerMove={() => !one.disabled && setActive(one.value)}
              onClick={() => !one.disabled && pick(one.value)}
              className="flex cursor-pointer items-start gap-2 rounded-md px-2.5 py-1.5 text-sm aria-disabled:cursor-default aria-disabled:text-ink-3 data-[active=true]:bg-hover coarse:py-2.5"
            >
              <span className="min-w-0 flex-1">
                <span className="block truncate" title={one.label}>
                  {one.label}
                </span>
                {one.hint && <span className="block text-xs text-ink-3">{one.hint}</span>}
              </span>
              {one.value === value && <Check className="mt-0.5 size-4 shrink-0 text-accent" aria-hidden />}
            </div>
          </div>
        ))}
      </div>
      {footer && <div className="border-t p-1">{footer}</div>}
    </>
  );
}
