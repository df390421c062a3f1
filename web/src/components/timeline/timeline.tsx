/** The session's timeline: a virtual list that stays at its newest end unless somebody scrolls up, and fetches what is older when they do. */
import { useVirtualizer } from "@tanstack/react-virtual";
import { ArrowDown, Link as LinkIcon, MessageSquare } from "lucide-react";
import { type RefObject, memo, useCallback, useEffect, useLayoutEffect, useRef, useState } from "react";
import { Button } from "@/components/ui/button";
import { Empty } from "@/components/ui/empty";
import { complain, say } from "@/components/ui/toasts";
import { exact } from "@/components/ui/words";
import type { Item } from "@/session/items";
import type { Row } from "@/session/rows";
import { useItem, useStore, useView } from "@/session/use-session";
import { BootRow } from "./boot-row";
import { OutgoingRow, PromptRow } from "./prompt-row";
import { PullRequestRow } from "./pull-request-row";
import { QuestionRow } from "./question-row";
import { CommitRow, FooterRow, NoticeRow, WorkRow } from "./small-rows";
import { ToolRow } from "./tool-row";
import { ReasoningRow, TextRow } from "./writing-row";

const NEAR_END = 64;
/** How long after a turn of the wheel, a swipe or a key what scrolls is still its doing: smooth scrolling goes on for a while. */
const BY_HAND_MS = 1_000;
const SCROLL_KEYS = new Set(["ArrowUp", "PageUp", "Home", " ", "Tab"]);
const NEAR_START = 900;
const AIM_MS = 600;

export function Timeline({ target, onTargetReached }: { target: number | null; onTargetReached: () => void }) {
  const store = useStore();
  const rows = useView((view) => view.rows);
  const hasOlder = useView((view) => view.hasOlder);
  const olderProblem = useView((view) => view.olderProblem);
  const loadingOlder = useView((view) => view.loadingOlder);
  const outgoing = useView((view) => view.outgoing);
  const scroller = useRef<HTMLDivElement>(null);
  const stuck = useRef(true);
  const lastTop = useRef(0);
  /** On the way to an event that was asked for: being near the end for a moment does not mean to stay there. */
  const aiming = useRef(false);
  const [atEnd, setAtEnd] = useState(true);
  const [marked, setMarked] = useState<string | null>(null);

  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: (index) => estimate(rows[index]),
    getItemKey: (index) => rows[index]!.key,
    overscan: 8,
    paddingStart: 16,
    paddingEnd: 12,
    anchorTo: "end",
    scrollEndThreshold: NEAR_END,
    initialOffset: Number.MAX_SAFE_INTEGER,
  });

  const pin = useCallback(() => {
    const element = scroller.current;
    if (!element) return;
    element.scrollTop = element.scrollHeight;
    lastTop.current = element.scrollTop;
  }, []);
  const byHand = useByHand(scroller);

  const look = useCallback(() => {
    const element = scroller.current;
    if (!element) return;
    const moved = element.scrollTop - lastTop.current;
    const left = element.scrollHeight - element.scrollTop - element.clientHeight;
    // Only who scrolls up leaves the end. The browser itself moves the list too, when what stands below it takes room.
    if (aiming.current) stuck.current = false;
    else if (left <= 1) stuck.current = true;
    else if (moved < 0 && byHand()) stuck.current = false;
    else if (moved > 0 && left < NEAR_END) stuck.current = true;
    if (stuck.current && left > 1) pin();
    lastTop.current = element.scrollTop;
    store.following = stuck.current;
    setAtEnd(stuck.current);
    if (element.scrollTop < NEAR_START) void store.loadOlder();
  }, [store, byHand, pin]);

  // After every change of what is shown: whoever was at the end stays there.
  useLayoutEffect(() => {
    const element = scroller.current;
    if (element && stuck.current && element.scrollHeight - element.scrollTop - element.clientHeight > 0) pin();
  });
  useEffect(() => {
    const element = scroller.current;
    if (!element) return;
    // A banner or a longer prompt takes room from below.
    const observer = new ResizeObserver(() => {
      if (stuck.current) pin();
    });
    observer.observe(element);
    return () => observer.disconnect();
  }, [pin]);
  const toEnd = useCallback(() => {
    stuck.current = true;
    setAtEnd(true);
    pin();
  }, [pin]);
  // What somebody has just sent is what they want to see.
  useEffect(() => {
    if (outgoing.length > 0) toEnd();
  }, [outgoing.length, toEnd]);
  useEffect(look, [look, rows.length, hasOlder]);

  useEffect(() => {
    if (target === null) return;
    let current = true;
    let settled: ReturnType<typeof setTimeout> | undefined;
    aiming.current = true;
    stuck.current = false;
    store
      .reveal(target)
      .then((key) => {
        if (!current) return;
        onTargetReached();
        const at = key === null ? -1 : store.view.rows.findIndex((row) => row.key === key);
        settled = setTimeout(() => (aiming.current = false), AIM_MS);
        if (at < 0) return say(`There is nothing at #${target} in this session.`);
        setMarked(key);
        setAtEnd(false);
        // Once the list has the rows that were unfolded or fetched.
        requestAnimationFrame(() => virtual.scrollToIndex(at, { align: "start" }));
      })
      .catch(complain);
    return () => {
      current = false;
      if (settled === undefined) aiming.current = false;
    };
  }, [target, store, virtual, onTargetReached]);

  return (
    <div className="relative min-h-0 flex-1">
      {/* oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- so that the keyboard can scroll it */}
      <div ref={scroller} onScroll={look} tabIndex={0} role="log" aria-label="Timeline" aria-live="off" className="scroll-thin h-full overflow-x-hidden overflow-y-auto outline-none [overflow-anchor:none]">
        {olderProblem && (
          <p role="alert" className="flex items-center justify-center gap-2 pt-3 text-xs text-bad">
            {olderProblem.message}
            <Button size="sm" onClick={() => store.loadOlder()}>
              Try again
            </Button>
          </p>
        )}
        {rows.length === 0 && outgoing.length === 0 && (
          <div className="grid h-full place-items-center">
            <Empty icon={<MessageSquare />} title="Nothing has been asked yet" text="Describe a task below. A sandbox starts with the first prompt, and all that happens in it stands here." />
          </div>
        )}
        {loadingOlder && <p className="pt-3 text-center text-xs text-ink-3">Fetching what was before…</p>}
        <div className="relative w-full" style={{ height: virtual.getTotalSize() }}>
          {virtual.getVirtualItems().map((one) => (
            <div key={one.key} data-index={one.index} ref={virtual.measureElement} className="absolute inset-x-0 top-0" style={{ transform: `translateY(${one.start}px)` }}>
              <div className="mx-auto w-full max-w-[51rem] px-4 sm:px-6 lg:px-10">
                <RowView row={rows[one.index]!} marked={rows[one.index]!.key === marked} />
              </div>
            </div>
          ))}
        </div>
        {outgoing.length > 0 && (
          <div className="mx-auto w-full max-w-[51rem] px-4 pb-4 sm:px-6 lg:px-10">
            {outgoing.map((one) => (
              <OutgoingRow key={one.key} outgoing={one} />
            ))}
          </div>
        )}
      </div>
      {!atEnd && (
        <Button size="sm" className="absolute bottom-3 left-1/2 -translate-x-1/2 animate-rise rounded-full shadow-float" onClick={toEnd}>
          <ArrowDown className="size-3.5" /> Latest
        </Button>
      )}
    </div>
  );
}

/** Tells whether a person is scrolling now: by wheel, touch, key, or with the pointer held on the list or its scrollbar. */
function useByHand(scroller: RefObject<HTMLElement | null>): () => boolean {
  const last = useRef(-Infinity);
  const held = useRef(false);
  useEffect(() => {
    const element = scroller.current;
    if (!element) return;
    const hand = () => {
      last.current = performance.now();
    };
    const key = (event: KeyboardEvent) => SCROLL_KEYS.has(event.key) && hand();
    const press = () => {
      held.current = true;
    };
    const release = (event: PointerEvent) => {
      if (!held.current || event.buttons !== 0) return;
      held.current = false;
      hand();
    };
    const heard = new AbortController();
    const how = { passive: true, signal: heard.signal };
    element.addEventListener("wheel", hand, how);
    element.addEventListener("touchmove", hand, how);
    element.addEventListener("keydown", key, how);
    element.addEventListener("pointerdown", press, how);
    // Not every browser tells when the scrollbar is let go; then the pointer's next move does.
    for (const end of ["pointerup", "pointercancel", "pointermove"] as const) addEventListener(end, release, how);
    return () => heard.abort();
  }, [scroller]);
  return useCallback(() => held.current || performance.now() - last.current < BY_HAND_MS, []);
}

function estimate(row: Row | undefined): number {
  if (!row) return 32;
  if (row.kind === "work") return 36;
  if (row.id.startsWith("prompt:")) return 110;
  if (row.id.startsWith("footer:")) return 36;
  return 64;
}

const RowView = memo(function RowView({ row, marked }: { row: Row; marked: boolean }) {
  if (row.kind === "work") return <WorkRow row={row} />;
  return <ItemRow id={row.id} marked={marked} />;
});

function ItemRow({ id, marked }: { id: string; marked: boolean }) {
  const item = useItem(id);
  if (!item) return null;
  return (
    <div className={`group/row relative ${marked ? "rounded-md ring-2 ring-accent/50 ring-offset-4 ring-offset-(--page)" : ""}`}>
      {item.seq !== null && (
        <a
          href={`#${item.seq}`}
          tabIndex={-1}
          aria-label={`Link to event ${item.seq}`}
          title={`#${item.seq}${item.at ? ` · ${exact(item.at)}` : ""}`}
          className={`absolute -left-8 hidden p-1.5 text-ink-3 opacity-0 group-hover/row:opacity-100 hover:text-accent lg:block ${item.kind === "prompt" ? "top-9" : "top-0"}`}
        >
          <LinkIcon className="size-3.5" aria-hidden />
        </a>
      )}
      <Shown item={item} />
    </div>
  );
}

function Shown({ item }: { item: Item }) {
  switch (item.kind) {
    case "prompt":
      return <PromptRow item={item} />;
    case "text":
      return <TextRow item={item} />;
    case "reasoning":
      return <ReasoningRow item={item} />;
    case "tool":
      return <ToolRow item={item} />;
    case "boot":
      return <BootRow item={item} />;
    case "commit":
      return <CommitRow item={item} />;
    case "pull_request":
      return <PullRequestRow item={item} />;
    case "question":
      return <QuestionRow item={item} />;
    case "notice":
      return <NoticeRow item={item} />;
    case "footer":
      return <FooterRow item={item} />;
  }
}
