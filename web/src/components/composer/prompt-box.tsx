/** Where a prompt is written: grows with its words, takes pictures by paste, drop or file, and sends with ⌘ or Ctrl and Enter. */
import { ArrowUp, ImagePlus, X } from "lucide-react";
import { type ReactNode, type RefObject, useId, useLayoutEffect, useRef, useState } from "react";
import { Button } from "@/components/ui/button";
import { Kbd, MOD } from "@/components/ui/kbd";
import { MAX_PICTURES, PICTURE_TYPES, type usePictures } from "./pictures";

const MAX_LETTERS = 64_000;

type PromptBoxProps = {
  text: string;
  onText: (text: string) => void;
  pictures: ReturnType<typeof usePictures>;
  onSend: () => void;
  sendLabel: string;
  placeholder: string;
  busy?: boolean;
  /** Something has to be fetched before anything can be sent. */
  waiting?: boolean;
  /** Why nothing can be sent at the moment. */
  blocked?: string;
  area: RefObject<HTMLTextAreaElement | null>;
  tools: ReactNode;
  actions?: ReactNode;
  autoFocus?: boolean;
  rows?: number;
};

export function PromptBox({ text, onText, pictures, onSend, sendLabel, placeholder, busy = false, waiting = false, blocked, area, tools, actions, autoFocus = false, rows = 1 }: PromptBoxProps) {
  const [dropping, setDropping] = useState(false);
  const file = useRef<HTMLInputElement>(null);
  const why = useId();
  const letters = [...text].length;
  const over = letters > MAX_LETTERS;
  const ready = !busy && !waiting && !blocked && !over && (text.trim() !== "" || pictures.pictures.length > 0);

  useLayoutEffect(() => {
    const element = area.current;
    if (!element) return;
    element.style.height = "0";
    element.style.height = `${Math.max(rows * 24 + 16, Math.min(element.scrollHeight, Math.max(160, innerHeight * 0.4)))}px`;
  }, [area, text, rows]);

  return (
    // oxlint-disable-next-line jsx-a11y/no-static-element-interactions -- dropping is an extra; the button beside it does the same
    <div
      onDragOver={(event) => {
        if (!event.dataTransfer.types.includes("Files")) return;
        event.preventDefault();
        setDropping(true);
      }}
      onDragLeave={(event) => !event.currentTarget.contains(event.relatedTarget as Node | null) && setDropping(false)}
      onDrop={(event) => {
        event.preventDefault();
        setDropping(false);
        pictures.add(event.dataTransfer.files);
      }}
      className={`relative rounded-xl border bg-surface shadow-card transition-colors focus-within:border-line-strong ${dropping ? "border-accent ring-3 ring-accent/20" : ""}`}
    >
      {pictures.pictures.length > 0 && (
        <ul aria-label="Pictures" className="flex flex-wrap gap-2 px-3 pt-3">
          {pictures.pictures.map((picture) => (
            <li key={picture.key} className="relative">
              <img src={picture.address} alt={picture.file.name} className="size-16 rounded-lg border object-cover" />
              <button
                type="button"
                aria-label={`Remove ${picture.file.name}`}
                onClick={() => pictures.remove(picture.key)}
                className="absolute -top-1.5 -right-1.5 rounded-full border bg-surface p-0.5 text-ink-2 shadow-card hover:text-ink"
              >
                <X className="size-3" />
              </button>
            </li>
          ))}
        </ul>
      )}
      <textarea
        ref={area}
        value={text}
        rows={rows}
        // oxlint-disable-next-line jsx-a11y/no-autofocus -- on the first page it is what people come for
        autoFocus={autoFocus}
        aria-label="Prompt"
        aria-describedby={over || blocked ? why : undefined}
        placeholder={placeholder}
        onChange={(event) => onText(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || !(event.metaKey || event.ctrlKey) || event.nativeEvent.isComposing) return;
          event.preventDefault();
          if (ready) onSend();
        }}
        onPaste={(event) => {
          const files = [...event.clipboardData.files].filter((one) => one.type.startsWith("image/"));
          if (files.length === 0) return;
          event.preventDefault();
          pictures.add(files);
        }}
        className="block w-full resize-none bg-transparent px-3.5 pt-3 pb-1 text-base leading-6 outline-none"
      />
      {over && (
        <p id={why} role="alert" className="px-3.5 text-xs text-bad">
          {letters - MAX_LETTERS} characters too many: a prompt has at most 64,000.
        </p>
      )}
      <div role="status">
        {blocked && !over && (
          <p id={why} className="px-3.5 text-xs text-warn">
            {blocked}
          </p>
        )}
      </div>
      <div className={`flex items-center gap-0.5 p-1.5 ${rows > 1 ? "flex-wrap" : ""}`}>
        <div className={rows > 1 ? "contents" : "flex min-w-0 items-center gap-0.5"}>{tools}</div>
        <div className="ml-auto flex shrink-0 items-center gap-1.5">
          <input
            ref={file}
            type="file"
            accept={PICTURE_TYPES.join(",")}
            multiple
            hidden
            onChange={(event) => {
              if (event.target.files) pictures.add(event.target.files);
              event.target.value = "";
            }}
          />
          <Button look="ghost" size="icon" aria-label="Attach a picture" title={`Attach a picture (at most ${MAX_PICTURES})`} onClick={() => file.current?.click()}>
            <ImagePlus className="size-4" />
          </Button>
          {actions}
          <Button
            look="primary"
            size="sm"
            aria-label={sendLabel}
            aria-describedby={over || blocked ? why : undefined}
            disabled={!ready}
            busy={busy}
            onClick={onSend}
            className="h-7.5 px-2 sm:pr-1.5 sm:pl-2.5"
          >
            <span className={rows > 1 ? "" : "max-sm:sr-only"}>{sendLabel}</span>
            <Kbd>{`${MOD}⏎`}</Kbd>
            <ArrowUp className="size-4 sm:hidden coarse:block" aria-hidden />
          </Button>
        </div>
      </div>
      {dropping && <div className="pointer-events-none absolute inset-0 grid place-items-center rounded-xl bg-surface/85 text-sm font-medium text-accent">Drop the picture here</div>}
    </div>
  );
}
