const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

/** The name of the key that goes with shortcuts on this machine. */
export const MOD = MAC ? "⌘" : "Ctrl ";

export function Kbd({ children }: { children: string }) {
  return (
    // Drawn, not written: it is no part of the name of the button that it stands in.
    <kbd aria-hidden data-key={children} className="hidden rounded border border-current/30 px-1 font-sans text-2xs leading-4 before:content-[attr(data-key)] sm:inline-block coarse:hidden" />
  );
}
