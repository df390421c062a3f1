/** What a model or a person wrote, as markdown. Nothing in it runs, and nothing is fetched: HTML is shown as text, pictures as links. */
import { Image } from "lucide-react";
import { type ReactElement, type ReactNode, isValidElement, memo } from "react";
import Markdown, { type Components } from "react-markdown";
import remarkGfm from "remark-gfm";
import { blocksOf } from "./blocks";
import { CodeBlock } from "./code";

const PLUGINS = [remarkGfm];

const COMPONENTS: Components = {
  a: ({ href, children }) => {
    // A path of the repository is no address of this page.
    if (!href || !/^(https?:|mailto:)/i.test(href)) return <span title={href}>{children}</span>;
    const own = href.startsWith(`${location.origin}/`);
    return (
      <a href={href} {...(own ? {} : { target: "_blank", rel: "noreferrer noopener nofollow" })} title={href}>
        {children}
      </a>
    );
  },
  img: ({ alt, src }) => (
    <a href={typeof src === "string" ? src : undefined} target="_blank" rel="noreferrer noopener nofollow" title={typeof src === "string" ? src : undefined} className="inline-flex items-baseline gap-1">
      <Image className="size-3.5 self-center" aria-hidden />
      {alt || "picture"}
    </a>
  ),
  pre: ({ children }) => {
    const { text, language } = codeIn(children);
    return <CodeBlock code={text.replace(/\n$/, "")} language={language} />;
  },
  table: ({ children }) => (
    <div className="scroll-thin overflow-x-auto">
      <table>{children}</table>
    </div>
  ),
};

function codeIn(children: ReactNode): { text: string; language: string } {
  if (!isValidElement(children)) return { text: String(children), language: "" };
  const { className, children: text } = (children as ReactElement<{ className?: string; children?: ReactNode }>).props;
  return { text: Array.isArray(text) ? text.join("") : String(text ?? ""), language: /language-(\S+)/.exec(className ?? "")?.[1] ?? "" };
}

const Block = memo(function Block({ text }: { text: string }) {
  return (
    <Markdown remarkPlugins={PLUGINS} components={COMPONENTS}>
      {text}
    </Markdown>
  );
});

export default function Blocks({ text }: { text: string }) {
  return blocksOf(text).map((block, at) => (
    // oxlint-disable-next-line react/no-array-index-key -- pieces only ever grow at the end
    <Block key={at} text={block} />
  ));
}
