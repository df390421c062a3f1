/** A panel in the top layer beside its anchor: menus and pickers. On a phone it rises from the bottom edge instead. */
import { type ComponentProps, type RefObject, useEffect, useLayoutEffect, useRef } from "react";

type FloatingProps = Omit<ComponentProps<"div">, "popover"> & {
  anchor: RefObject<HTMLElement | null>;
  onClose: () => void;
  align?: "start" | "end";
  side?: "bottom" | "top";
};

const GAP = 5;
const EDGE = 8;

export function Floating({ anchor, onClose, align = "start", side = "bottom", className = "", children, ...rest }: FloatingProps) {
  const panel = useRef<HTMLDivElement>(null);
  const close = useRef(onClose);
  useEffect(() => {
    close.current = onClose;
  });

  useLayoutEffect(() => {
    const element = panel.current;
    if (!element) return;
    element.showPopover();
    const place = () => {
      const phone = innerWidth < 640;
      element.dataset.phone = String(phone);
      const at = anchor.current?.getBoundingClientRect();
      if (phone || !at) {
        element.style.removeProperty("left");
        element.style.removeProperty("top");
        element.style.removeProperty("max-height");
        return;
      }
      const { offsetWidth: width, scrollHeight } = element;
      const below = innerHeight - at.bottom - GAP - EDGE;
      const above = at.top - GAP - EDGE;
      const up = side === "top" ? above > Math.min(scrollHeight, 180) || above > below : below < Math.min(scrollHeight, 220) && above > below;
      const height = Math.min(element.offsetHeight, up ? above : below);
      const left = align === "end" ? at.right - width : at.left;
      element.style.left = `${Math.max(EDGE, Math.min(left, innerWidth - width - EDGE))}px`;
      element.style.top = `${up ? at.top - GAP - height : at.bottom + GAP}px`;
      element.style.maxHeight = `${up ? above : below}px`;
    };
    place();
    const observer = new ResizeObserver(place);
    observer.observe(element);
    addEventListener("resize", place);
    addEventListener("scroll", place, true);
    const outside = (event: PointerEvent) => {
      const target = event.target as Node;
      if (!element.contains(target) && !anchor.current?.contains(target)) close.current();
    };
    const escape = (event: KeyboardEvent) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      close.current();
      anchor.current?.focus();
    };
    document.addEventListener("pointerdown", outside, true);
    document.addEventListener("keydown", escape, true);
    return () => {
      observer.disconnect();
      removeEventListener("resize", place);
      removeEventListener("scroll", place, true);
      document.removeEventListener("pointerdown", outside, true);
      document.removeEventListener("keydown", escape, true);
    };
  }, [anchor, align, side]);

  return (
    <div
      ref={panel}
      popover="manual"
      className={`fixed inset-auto m-0 flex flex-col overflow-hidden rounded-lg bg-surface p-0 text-ink shadow-float outline-none not-open:hidden open:animate-rise data-[phone=true]:inset-x-0 data-[phone=true]:bottom-0 data-[phone=true]:max-h-[75dvh] data-[phone=true]:w-full data-[phone=true]:max-w-none data-[phone=true]:rounded-b-none data-[phone=true]:pb-[env(safe-area-inset-bottom)] ${className}`}
      {...rest}
    >
      {children}
    </div>
  );
}
