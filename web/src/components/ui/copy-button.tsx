import { Check, Copy } from "lucide-react";
import { useState } from "react";
import { Button } from "./button";
import { copyText } from "./clipboard";
import { complain } from "./toasts";

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
        copyText(typeof text === "string" ? text : text()).then(
          () => {
            setCopied(true);
            setTimeout(() => setCopied(false), 1_500);
          },
          complain,
        );
      }}
    >
      {copied ? <Check className="size-3.5 text-good" /> : <Copy className="size-3.5" />}
      {shown && (copied ? "Copied" : label)}
    </Button>
  );
}
