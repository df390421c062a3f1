export function Logo({ className = "size-5" }: { className?: string }) {
  return (
    <svg viewBox="0 0 24 24" fill="none" className={className} aria-hidden>
      <circle cx="10.5" cy="10.5" r="6.25" stroke="currentColor" strokeWidth="2.5" />
      <path d="m15.4 15.4 4.8 4.8" stroke="var(--accent)" strokeWidth="2.9" strokeLinecap="round" />
    </svg>
  );
}
