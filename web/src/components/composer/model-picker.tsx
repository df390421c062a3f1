import { useQuery } from "@tanstack/react-query";
import { Gauge, Sparkles } from "lucide-react";
import { modelsQuery } from "@/api/queries";
import { Picker } from "@/components/ui/picker";

export type ModelChoice = { model: string; effort: string | null };

const PROVIDERS: Record<string, string> = { anthropic: "Anthropic", openai: "OpenAI", opencode: "OpenCode Zen" };
const EFFORTS: Record<string, string> = { none: "No effort", low: "Low", medium: "Medium", high: "High", xhigh: "Extra high", max: "Maximal" };

/** Which model answers, and how much effort it makes. */
export function ModelPicker({ value, onPick, side }: { value: ModelChoice; onPick: (choice: ModelChoice) => void; side?: "top" | "bottom" }) {
  const { data: models = [] } = useQuery(modelsQuery);
  const chosen = models.find((one) => one.id === value.model);
  const effort = value.effort ?? chosen?.default_effort ?? null;
  return (
    <>
      <Picker
        label="Model"
        icon={<Sparkles />}
        side={side}
        value={value.model}
        options={models
          .toSorted((a, b) => Number(b.available) - Number(a.available))
          .map((one) => ({
            value: one.id,
            label: one.name,
            group: one.available ? (PROVIDERS[one.provider] ?? one.provider) : "Not available",
            disabled: !one.available,
            hint: one.available ? (one.scripted ? "Scripted answers" : undefined) : one.reason,
          }))}
        onPick={(model) => {
          const next = models.find((one) => one.id === model);
          onPick({ model, effort: next && value.effort && next.efforts.includes(value.effort) ? value.effort : (next?.default_effort ?? null) });
        }}
      />
      {chosen && chosen.efforts.length > 0 && (
        <Picker
          label="Effort"
          icon={<Gauge />}
          className="shrink-0"
          side={side}
          value={effort}
          placeholder="Effort"
          options={chosen.efforts.map((one) => ({ value: one, label: EFFORTS[one] ?? one, hint: one === chosen.default_effort ? "The model's default" : undefined }))}
          onPick={(next) => onPick({ model: value.model, effort: next })}
        />
      )}
    </>
  );
}
