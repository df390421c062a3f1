const HUES = [12, 38, 150, 172, 200, 228, 256, 284, 312, 340];

function hue(key: string): number {
  let sum = 0;
  for (const letter of key) sum = (sum * 31 + letter.charCodeAt(0)) % 9_973;
  return HUES[sum % HUES.length]!;
}

/** A person as initials, always in the same colour. */
export function Avatar({ name, id, size = 20, dim = false, label = true }: { name: string; id?: string | null; size?: number; dim?: boolean; label?: boolean }) {
  const initials = name
    .split(/\s+/)
    .filter(Boolean)
    .map((word) => word[0]!.toUpperCase());
  const shown = initials.length > 1 ? `${initials[0]}${initials.at(-1)}` : (initials[0] ?? "?");
  return (
    <span
      {...(label ? { role: "img", "aria-label": name, title: name } : { "aria-hidden": true })}
      data-initials={shown}
      className={`inline-flex shrink-0 items-center justify-center rounded-full font-semibold text-white select-none before:content-[attr(data-initials)] ${dim ? "saturate-[0.25]" : ""}`}
      style={{ width: size, height: size, fontSize: size * (shown.length > 1 ? 0.4 : 0.46), background: `oklch(0.53 0.1 ${hue(id ?? name)})` }}
    />
  );
}
