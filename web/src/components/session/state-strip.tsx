import { Bot, Box, Layers, Wifi, WifiOff } from "lucide-react";
import { useId, useRef, useState } from "react";
import { Floating } from "@/components/ui/floating";
import { useStanding, useView } from "@/session/use-session";
import { type Truth, truths } from "./states";

const SIGNS = { Session: Layers, Sandbox: Box, Agent: Bot, You: Wifi } as Record<string, typeof Box>;
const DOTS = { good: "bg-good", accent: "bg-accent animate-breathe", warn: "bg-warn", bad: "bg-bad", quiet: "bg-ink-3/60" } as const;
const TEXTS = { good: "text-ink-2", accent: "text-accent", warn: "text-warn", bad: "text-bad", quiet: "text-ink-3" } as const;

/** The four truths in one strip; pressed, it tells what each of them means now. */
export function StateStrip() {
  const standing = useStanding();
  const connection = useView((view) => view.connection);
  const [open, setOpen] = useState(false);
  const trigger = useRef<HTMLButtonElement>(null);
  const id = useId();
  const all = truths(standing, connection);
  return (
    <>
      <button
        ref={trigger}
        type="button"
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        title="How things stand"
        onClick={() => setOpen(!open)}
        className="flex h-7 shrink-0 items-center gap-2.5 rounded-md px-2 text-xs hover:bg-hover aria-expanded:bg-hover coarse:h-10"
      >
        {all.map((one) => (
          <Mark key={one.name} truth={one} />
        ))}
      </button>
      {open && (
        <Floating id={id} role="dialog" aria-label="How things stand" anchor={trigger} align="end" onClose={() => setOpen(false)} className="w-80 p-1.5">
          <ul>
            {all.map((one) => (
              <li key={one.name} className="flex gap-3 rounded-md px-2.5 py-2">
                <Sign truth={one} className="mt-0.5 size-4 shrink-0" />
                <div className="min-w-0">
                  <p className="text-sm">
                    <span className="text-ink-3">{one.name}</span> <span className={`font-medium ${one.tone === "good" ? "text-ink" : TEXTS[one.tone]}`}>{one.word}</span>
                  </p>
                  <p className="text-xs break-words text-ink-2">{one.explain}</p>
                </div>
              </li>
            ))}
          </ul>
        </Floating>
      )}
    </>
  );
}

function Sign({ truth, className }: { truth: Truth; className: string }) {
  const Icon = truth.name === "You" && truth.word !== "Live" ? WifiOff : SIGNS[truth.name]!;
  return <Icon className={`${className} ${TEXTS[truth.tone]}`} aria-hidden />;
}

/** On a wide page what is unusual is written out; else the sign and a dot must do. */
function Mark({ truth }: { truth: Truth }) {
  const loud = truth.tone === "accent" || truth.tone === "warn" || truth.tone === "bad";
  return (
    <span className={`items-center gap-1.5 inline-flex ${loud || truth.name === "You" ? "" : "max-sm:sr-only"} ${TEXTS[truth.tone]}`}>
      <span className="relative">
        <Sign truth={truth} className="size-3.5" />
        <span className={`absolute -right-0.5 -bottom-0.5 size-1.5 rounded-full ring-2 ring-(--page) ${DOTS[truth.tone]}`} />
      </span>
      <span className="sr-only">{truth.name}</span>
      <span className={`max-w-36 truncate ${loud ? "@max-3xl:sr-only" : "@max-5xl:sr-only"}`}>{truth.word}</span>
    </span>
  );
}
