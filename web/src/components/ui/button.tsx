import type { ComponentProps } from "react";

const LOOKS = {
  primary: "bg-ink text-on-ink hover:opacity-88 active:opacity-80",
  accent: "bg-accent text-on-ink hover:opacity-90 active:opacity-80",
  secondary: "border border-line-strong bg-surface text-ink hover:bg-hover",
  ghost: "text-ink-2 hover:bg-hover hover:text-ink",
  danger: "border border-line-strong bg-surface text-bad hover:bg-bad-soft",
} as const;

const SIZES = {
  sm: "h-7 px-2 text-xs gap-1.5 coarse:h-9",
  md: "h-8 px-3 text-sm gap-2 coarse:h-10",
  icon: "size-7 justify-center coarse:size-10",
  "icon-md": "size-8 justify-center coarse:size-10",
} as const;

type ButtonProps = ComponentProps<"button"> & { look?: keyof typeof LOOKS; size?: keyof typeof SIZES; busy?: boolean };

export function buttonClass(look: keyof typeof LOOKS = "secondary", size: keyof typeof SIZES = "md"): string {
  return `inline-flex shrink-0 items-center justify-center rounded-md font-medium whitespace-nowrap select-none transition-colors duration-100 disabled:pointer-events-none disabled:opacity-40 ${LOOKS[look]} ${SIZES[size]}`;
}

export function Button({ look, size, busy = false, className = "", disabled, ...rest }: ButtonProps) {
  return <button type="button" disabled={disabled || busy} aria-busy={busy || undefined} className={`${buttonClass(look, size)} ${className}`} {...rest} />;
}
