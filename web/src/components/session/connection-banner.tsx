import { WifiOff } from "lucide-react";
import { useEffect, useState } from "react";
import { Button } from "@/components/ui/button";
import { useStanding, useStore, useView } from "@/session/use-session";

const PATIENCE_MS = 1_500;

/** Says that the page has lost the server, once it is more than a hiccup: your connection, not the agent. */
export function ConnectionBanner() {
  const store = useStore();
  const standing = useStanding();
  const connection = useView((view) => view.connection);
  const [now, setNow] = useState(() => Date.now());
  const [since, setSince] = useState<number | null>(null);
  if (connection.state === "waiting" && since !== connection.since) setSince(connection.since);
  if (connection.state === "live" && since !== null) setSince(null);
  useEffect(() => {
    if (since === null) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), 500);
    return () => clearInterval(timer);
  }, [since]);

  if (connection.state === "ended" && connection.because === "signed-out") {
    return <Banner text="You are signed out, so this page no longer follows the session." />;
  }
  if (since === null || now - since < PATIENCE_MS) return null;
  const wait = connection.state === "waiting" ? Math.max(0, Math.ceil((connection.retryAt - now) / 1_000)) : 0;
  const going = standing.activity === "idle" ? "Nothing is lost." : "Your work goes on.";
  return (
    <Banner text={`Reconnecting… ${going}`}>
      <span className="hidden text-ink-3 tabular sm:inline" aria-hidden>
        {wait > 0 ? `next try in ${wait} s` : "trying"}
      </span>
      <Button size="sm" look="ghost" onClick={store.reconnect}>
        Try now
      </Button>
    </Banner>
  );
}

function Banner({ text, children }: { text: string; children?: React.ReactNode }) {
  return (
    <div role="status" className="flex items-center gap-2.5 border-b bg-warn-soft px-4 py-1 text-sm sm:px-6">
      <WifiOff className="size-4 shrink-0 text-warn" aria-hidden />
      <span className="min-w-0 flex-1">{text}</span>
      {children}
    </div>
  );
}
