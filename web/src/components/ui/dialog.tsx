/** A window over the page, by the browser's own dialog: it keeps the focus inside and gives it back. */
import { X } from "lucide-react";
import { type ReactNode, useId, useLayoutEffect, useRef } from "react";
import { Button } from "./button";

type DialogProps = {
  title: string;
  onClose: () => void;
  children: ReactNode;
  /** `sheet`: from the right edge, or from below on a phone. */
  look?: "window" | "sheet" | "palette";
  /** Shows no heading; the title is still told to screen readers. */
  bare?: boolean;
  className?: string;
};

const LOOKS = {
  window: "m-auto w-[min(30rem,calc(100vw-1.5rem))] max-h-[calc(100dvh-2rem)] rounded-xl max-sm:mb-0 max-sm:w-full max-sm:max-w-none max-sm:rounded-b-none",
  palette: "mx-auto mt-[12vh] mb-auto w-[min(36rem,calc(100vw-1.5rem))] max-h-[70dvh] rounded-xl",
  sheet: "ml-auto mr-0 my-0 h-dvh max-h-none w-[min(30rem,100vw)] max-sm:mt-auto max-sm:mb-0 max-sm:h-[88dvh] max-sm:w-full max-sm:max-w-none max-sm:rounded-t-xl",
} as const;

export function Dialog({ title, onClose, children, look = "window", bare = false, className = "" }: DialogProps) {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  // Closed while it still stands in the page: only then the focus goes back to where it was.
  useLayoutEffect(() => {
    const dialog = element.current;
    if (dialog && !dialog.open) dialog.showModal();
    // A sheet takes the focus itself: a ring about its first button would only be noise.
    if (look === "sheet") dialog?.focus();
    return () => dialog?.close();
  }, [look]);
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-element-interactions, jsx-a11y/click-events-have-key-events -- a click beside the window closes it, as Escape does
    <dialog
      ref={element}
      tabIndex={-1}
      aria-labelledby={id}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onClick={(event) => event.target === element.current && onClose()}
      className={`flex-col overflow-hidden bg-surface shadow-float outline-none backdrop:bg-black/30 open:flex open:animate-rise dark:backdrop:bg-black/55 ${LOOKS[look]} ${className}`}
    >
      {bare ? (
        <h2 id={id} className="sr-only">
          {title}
        </h2>
      ) : (
        <h2 id={id} className="py-3 pr-14 pl-5 text-md font-semibold">
          {title}
        </h2>
      )}
      {children}
      {/* After the rest, because the first thing that can be focused is: who types at once must not close the window. */}
      {!bare && (
        <Button look="ghost" size="icon" aria-label="Close" onClick={onClose} className="absolute! top-2.5 right-3">
          <X className="size-4" />
        </Button>
      )}
    </dialog>
  );
}
