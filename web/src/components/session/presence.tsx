import { useMe } from "@/components/shell/me";
import { Avatar } from "@/components/ui/avatar";
import { useView } from "@/session/use-session";

const SHOWN = 4;

/** Who else looks at this session. */
export function Presence() {
  const people = useView((view) => view.people);
  const { user } = useMe();
  const others = people.filter((one) => one.user_id !== user.id);
  if (others.length === 0) return null;
  return (
    <ul aria-label={`Also here: ${others.map((one) => one.name).join(", ")}`} className="hidden -space-x-1 sm:flex">
      {others.slice(0, SHOWN).map((one) => (
        <li key={one.user_id} className="rounded-full ring-2 ring-(--page)" title={`${one.name}${one.typing ? ", typing" : one.state === "idle" ? ", away" : ""}`}>
          <Avatar name={one.name} id={one.user_id} size={22} dim={one.state === "idle"} />
        </li>
      ))}
      {others.length > SHOWN && <li className="grid size-[22px] place-items-center rounded-full bg-sunken text-2xs font-medium ring-2 ring-(--page)">+{others.length - SHOWN}</li>}
    </ul>
  );
}

export function Typing() {
  const people = useView((view) => view.people);
  const { user } = useMe();
  const names = people.filter((one) => one.typing && one.user_id !== user.id).map((one) => one.name);
  return (
    <p aria-live="polite" className="h-4 truncate px-1 text-2xs text-ink-3">
      {names.length > 0 && (
        <>
          {names.length > 2 ? `${names.length} people are typing` : `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} typing`}
          <span className="animate-breathe">…</span>
        </>
      )}
    </p>
  );
}
