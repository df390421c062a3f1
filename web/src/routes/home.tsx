import { HomeComposer } from "@/components/home/home-composer";
import { SessionList } from "@/components/home/session-list";
import { useCan, useMe } from "@/components/shell/me";

/** The first page: what shall be done, and below it what is being done. */
export function Home() {
  const can = useCan();
  const { user } = useMe();
  const first = user.name.split(" ", 1)[0];
  return (
    <main className="scroll-thin min-h-0 flex-1 overflow-y-auto">
      <title>Sessions · Open-Inspect</title>
      <div className="mx-auto w-full max-w-[58rem] px-4 pt-8 sm:pt-[max(2rem,9vh)] pb-16 sm:px-8">
        {can("sessions.create") && (
          <section aria-label="New session" className="mb-10 sm:mb-14">
            <h1 className="mb-4 text-xl font-semibold tracking-tight text-balance sm:text-2xl">What shall be done, {first}?</h1>
            <HomeComposer />
          </section>
        )}
        <SessionList />
      </div>
    </main>
  );
}
