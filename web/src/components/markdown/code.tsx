import { toJsxRuntime } from "hast-util-to-jsx-runtime";
import { type ReactNode, memo, useEffect, useState } from "react";
import { Fragment, jsx, jsxs } from "react/jsx-runtime";
import { CopyButton } from "@/components/ui/copy-button";
import { MAX_HIGHLIGHTED, highlighter, loadHighlighter } from "./highlight";

/** Code in colour, as soon as the highlighter is there. */
export const Code = memo(function Code({ code, language }: { code: string; language: string }): ReactNode {
  const [highlight, setHighlight] = useState(() => highlighter());
  const wanted = language !== "" && code.length <= MAX_HIGHLIGHTED;
  useEffect(() => {
    if (!wanted || highlight) return;
    let current = true;
    loadHighlighter().then(
      (loaded) => current && setHighlight(() => loaded),
      () => undefined, // the code stays readable without colours
    );
    return () => {
      current = false;
    };
  }, [wanted, highlight]);
  const tree = wanted && highlight ? highlight(code, language.toLowerCase()) : null;
  return tree ? toJsxRuntime(tree, { Fragment, jsx, jsxs }) : code;
});

export function CodeBlock({ code, language }: { code: string; language: string }) {
  return (
    <div className="group/code relative overflow-hidden rounded-lg border bg-sunken">
      {language && <div className="px-3.5 pt-2 text-2xs font-medium text-ink-3 select-none">{language}</div>}
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- so that the keyboard can scroll it */}
      <pre tabIndex={0} className="scroll-thin overflow-x-auto px-3.5 py-2.5 font-mono text-[0.78rem] leading-[1.3rem]">
        <code>
          <Code code={code} language={language} />
        </code>
      </pre>
      <CopyButton text={code} className="absolute top-1.5 right-1.5 bg-sunken opacity-0 group-hover/code:opacity-100 focus-visible:opacity-100 coarse:opacity-100" />
    </div>
  );
}
