import { Suspense, lazy, memo } from "react";

/** Begins with the page, so that the reader of markdown arrives about when the first text does; until then the text is shown as it was written. */
const arriving = import("./blocks-view");
const Blocks = lazy(() => arriving);

/** What a model or a person wrote, as markdown. */
export const Prose = memo(function Prose({ text, className = "" }: { text: string; className?: string }) {
  return (
    <div className={`prose ${className}`}>
      <Suspense fallback={<p className="whitespace-pre-wrap">{text}</p>}>
        <Blocks text={text} />
      </Suspense>
    </div>
  );
});
