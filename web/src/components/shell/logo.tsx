/** A finder's corners about a cursor: something is looked into. */
export function Logo({ className = "size-5" }: { className?: string }) {
  return (
    <svg viewBox="0 0 24 24" fill="none" className={className} aria-hidden>
      <path d="M8.5 3.5H6A2.5 2.5 0 0 0 3.5 6v2.5M15.5 3.5H18A2.5 2.5 0 0 1 20.5 6v2.5M8.5 20.5H6A2.5 2.5 0 0 1 3.5 18v-2.5M15.5 20.5H18a2.5 2.5 0 0 0 2.5-2.5v-2.5" stroke="currentColor" strokeWidth="2.2" strokeLinecap="round" />
      <path d="m8.2 8.8 3.2 3.2-3.2 3.2" stroke="currentColor" strokeWidth="2.2" strokeLinecap="round" strokeLinejoin="round" />
      <path d="M13.2 15.4h3" stroke="var(--accent)" strokeWidth="2.4" strokeLinecap="round" />
    </svg>
  );
}
