import { useQuery } from "@tanstack/react-query";
import { CircleCheck, CircleMinus, FlaskConical } from "lucide-react";
import { asProblem } from "@/api/problem";
import { modelsQuery } from "@/api/queries";
import { useMe } from "@/components/shell/me";
import { ProblemNote } from "@/components/ui/problem-note";
import { Row, Rows, SettingsPage, Waiting } from "./parts";

const PROVIDERS: Record<string, string> = { anthropic: "Anthropic", openai: "OpenAI", opencode: "OpenCode Zen" };

export function ModelsPage() {
  const { data, error } = useQuery(modelsQuery);
  const { server } = useMe();
  const groups = Map.groupBy(data ?? [], (one) => one.provider);
  return (
    <SettingsPage title="Models" about="Which models a session can use now, and what is missing for the others. Keys are set where the server runs; they never reach a sandbox or this page.">
      {error && <ProblemNote problem={asProblem(error)} />}
      {!data && !error && <Waiting what="the models" />}
      {[...groups].map(([provider, models]) => {
        const why = models.find((one) => !one.available);
        return (
          <section key={provider}>
            <h2 className="mb-2 text-md font-semibold">{PROVIDERS[provider] ?? provider}</h2>
            {models.every((one) => !one.available) && why && (
              <p className="mb-2 text-sm text-ink-2">
                {why.reason} {why.remedy}
              </p>
            )}
            <Rows label={provider}>
              {models.map((one) => (
                <Row key={one.id} dim={!one.available}>
                  {one.scripted && one.available ? (
                    <FlaskConical className="size-4 shrink-0 text-warn max-sm:mt-0.5 max-sm:self-start" aria-label="scripted" />
                  ) : one.available ? (
                    <CircleCheck className="size-4 shrink-0 text-good max-sm:mt-0.5 max-sm:self-start" aria-label="available" />
                  ) : (
                    <CircleMinus className="size-4 shrink-0 text-ink-3 max-sm:mt-0.5 max-sm:self-start" aria-label="not available" />
                  )}
                  <div className="flex min-w-0 flex-1 flex-wrap items-center gap-x-3 gap-y-0.5">
                    <span className="font-medium">{one.name}</span>
                    <span className="min-w-0 truncate font-mono text-xs text-ink-3">{one.id}</span>
                    {one.id === server.default_model && <span className="rounded-full bg-accent-soft px-2 py-px text-xs font-medium text-accent">default</span>}
                    <span className="text-xs text-ink-3 max-sm:w-full sm:ml-auto">
                      {one.efforts.map((effort, at) => (
                        <span key={effort}>
                          {at > 0 && " · "}
                          <span className={effort === one.default_effort ? "font-medium text-ink-2" : ""}>{effort}</span>
                        </span>
                      ))}
                    </span>
                  </div>
                </Row>
              ))}
            </Rows>
          </section>
        );
      })}
    </SettingsPage>
  );
}
