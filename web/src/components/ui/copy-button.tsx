import { Check, Copy } from "lucide-react";
import { useState } from "react";
import { Button } from "./button";

export function CopyButton({ text, label = "Copy", className = "", shown = false }: { text: string | (() => string); label?: string; className?: string; shown?: boolean }) {
  const [copied, setCopied] = useState(false);
  return (
    <Button
      look="ghost"
      size={shown ? "sm" : "icon"}
      className={className}
      aria-label={copied ? "Copied" : label}
      title={label}
      onClick={(event) => {
        event.stopPropagation();
        navigator.clipboard.writeText(typeof text === "string" ? text : text()).then(
          () => {
            setCopied(true);
            setTimeout(() => setCopied(false), 1_500);
          },
          () => undefined, // without the right to it nothing is copied, and the button goes on saying so
        );
      }}
    >
      {copied ? <Check className="size-3.5 text-good" /> : <Copy className="size-3.5" />}
      {shown && (copied ? "Copied" : label)}
    </Button>
  );
}
