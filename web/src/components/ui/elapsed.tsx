import { useEffect, useState } from "react";
import { duration } from "./words";

/** How long something has been going on, in whole seconds. */
export function Elapsed({ since }: { since: string }) {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, []);
  return <>{duration(Math.max(0, Math.floor((now - Date.parse(since)) / 1_000) * 1_000)).replace("0 ms", "0 s")}</>;
}
