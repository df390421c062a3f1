const MAC = /Mac|iPhone|iPad/.test(navigator.platform);

/** The name of the key that goes with shortcuts on this machine. */
export const MOD = MAC ? "⌘" : "Ctrl ";

export function Kbd({ children }: { children: string }) {
  return (
    <kbd aria-hidden className="hidden rounded border border-current/25 px-1 font-sans text-2xs leading-4 opacity-70 sm:inline-block coarse:hidden">
      {children}
    </kbd>
  );
}
