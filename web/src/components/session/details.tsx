import type { ReactNode } from "react";
import type { Item } from "@/session/items";
import { useStanding, useStore, useTimelineValue, useView } from "@/session/use-session";
import { Ago } from "@/components/ui/ago";
import { Avatar } from "@/components/ui/avatar";
import { CopyButton } from "@/components/ui/copy-button";
import { count, duration, modelName, money } from "@/components/ui/words";
import { TodoLine } from "./todos";
import { truths } from "./states";

/** What git calls a tree without any file (in SHA-1, in SHA-256): a repository that was empty began there. */
const EMPTY_TREES = ["4b825dc642cb6eb9a060e54bf8d69288fbee4904", "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"];

/** The particulars of a session. */
export function Details() {
  const standing = useStanding();
  const store = useStore();
  const connection = useView((view) => view.connection);
  const here = useView((view) => view.people);
  const todos = useTimelineValue((one) => one.timeline.todos);
  useTimelineValue((one) => one.timeline.structure);
  const items = [...store.timeline.items.values()];
  const turns = items.filter((item): item is Extract<Item, { kind: "footer" }> => item.kind === "footer");
  const commits = items.filter((item): item is Extract<Item, { kind: "commit" }> => item.kind === "commit");
  const people = new Map([[standing.owner.id ?? standing.owner.name, standing.owner]]);
  for (const item of items) if (item.kind === "prompt") people.set(item.author.id ?? item.author.name, item.author);
  const boot = items.findLast((item) => item.kind === "boot");

  return (
    <div className="divide-y text-sm">
      <Section title="How things stand">
        <Facts rows={truths(standing, connection).map((one) => [one.name, <span key={one.name} title={one.explain}>{one.word}</span>])} />
      </Section>
      {todos.length > 0 && (
        <Section title="The agent's list">
          <ol>
            {todos.map((item, at) => (
              // oxlint-disable-next-line react/no-array-index-key -- the agent may name two things alike
              <TodoLine key={at} item={item} />
            ))}
          </ol>
        </Section>
      )}
      <Section title="Cost">
        <Facts
          rows={[
            ["Session", <span key="all" className="font-medium">{money(standing.cost_usd)}</span>],
            ...turns
              .slice(-8)
              .toReversed()
              .map((turn): [ReactNode, ReactNode] => [
                <a key="turn" href={`#${turn.seq}`} className="truncate text-ink-2 hover:text-accent">
                  {promptWords(store.timeline.items.get(`prompt:${turn.promptId}`))}
                </a>,
                <span key="cost" className="text-ink-2" title={`${count(turn.inputTokens)} tokens in, ${count(turn.outputTokens)} out`}>
                  {money(turn.costUsd)} · {duration(turn.durationMs)}
                </span>,
              ]),
          ]}
        />
      </Section>
      {commits.length > 0 && (
        <Section title="Commits">
          <ol className="space-y-1">
            {commits.toReversed().map((commit) => (
              <li key={commit.id} className="flex min-w-0 items-center gap-2">
                <a href={`#${commit.seq}`} className="min-w-0 flex-1 truncate hover:text-accent">
                  {commit.subject}
                </a>
                <span className="font-mono text-xs text-ink-3">{commit.sha.slice(0, 7)}</span>
              </li>
            ))}
          </ol>
        </Section>
      )}
      <Section title={standing.targets.length === 1 ? "Repository" : "Repositories"}>
        {standing.targets.length === 0 && <p className="text-ink-3">None: an empty work folder.</p>}
        {standing.targets.map((target) => (
          <div key={target.directory} className="space-y-0.5 py-0.5">
            <p className="font-medium">{target.repository}</p>
            <Facts
              rows={[
                ["From", <Mono key="base" text={target.base_branch} />],
                ["Works on", <Mono key="work" text={target.work_branch} copy />],
                ...(target.base_sha ? [["Began at", EMPTY_TREES.includes(target.base_sha) ? "nothing: it was empty" : <Mono key="sha" text={target.base_sha.slice(0, 10)} />] as [ReactNode, ReactNode]] : []),
              ]}
            />
          </div>
        ))}
      </Section>
      <Section title="Sandbox">
        {standing.sandbox ? (
          <Facts
            rows={[
              ["State", standing.sandbox.state],
              ...(boot?.kind === "boot" && boot.agent ? [["Agent", boot.agent] as [ReactNode, ReactNode]] : []),
              ...(standing.sandbox.runtime_version ? [["Runtime", standing.sandbox.runtime_version] as [ReactNode, ReactNode]] : []),
              ["Connected", standing.sandbox.connected ? "yes" : "no"],
              ["Since", <Ago key="since" at={standing.sandbox.ready_at ?? standing.sandbox.created_at} />],
              ...(standing.sandbox.reason ? [["Reason", standing.sandbox.reason] as [ReactNode, ReactNode]] : []),
              ["Id", <Mono key="id" text={standing.sandbox.id} copy />],
            ]}
          />
        ) : (
          <p className="text-ink-3">None at the moment. The next prompt starts one.</p>
        )}
      </Section>
      <Section title="People">
        {here.length > 0 && <p className="mb-2 text-ink-2">Here now: {here.map((one) => (one.state === "idle" ? `${one.name} (away)` : one.name)).join(", ")}</p>}
        <ul className="space-y-1.5">
          {[...people.values()].map((person) => (
            <li key={person.id ?? person.name} className="flex items-center gap-2">
              <Avatar name={person.name} id={person.id} label={false} />
              <span className="truncate">{person.name}</span>
              {person.id === standing.owner.id && <span className="ml-auto text-xs text-ink-3">began it</span>}
            </li>
          ))}
        </ul>
      </Section>
      <Section title="Session">
        <Facts
          rows={[
            ["Model", <Mono key="model" text={modelName(standing.model) + (standing.effort ? ` · ${standing.effort}` : "")} />],
            ["Begun", <Ago key="begun" at={standing.created_at} />],
            ["Events", <span key="events" className="tabular">{standing.head}</span>],
            ["Id", <Mono key="id" text={standing.id} copy />],
          ]}
        />
      </Section>
    </div>
  );
}

function promptWords(item: Item | undefined): string {
  return item?.kind === "prompt" ? item.text.split("\n", 1)[0]!.slice(0, 80) || "Pictures" : "An earlier prompt";
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <section className="px-4 py-3.5">
      <h2 className="mb-1.5 text-xs font-medium text-ink-3">{title}</h2>
      {children}
    </section>
  );
}

function Facts({ rows }: { rows: [ReactNode, ReactNode][] }) {
  return (
    <dl className="space-y-1">
      {rows.map(([name, value], at) => (
        // oxlint-disable-next-line react/no-array-index-key -- the rows have no other name
        <div key={at} className="flex min-w-0 items-baseline justify-between gap-4">
          <dt className="min-w-0 truncate text-ink-3">{name}</dt>
          <dd className="min-w-0 shrink-0 truncate text-right tabular max-w-[70%]">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Mono({ text, copy = false }: { text: string; copy?: boolean }) {
  return (
    <span className="inline-flex max-w-full min-w-0 items-center font-mono text-xs">
      <span className="truncate" title={text}>
        {text}
      </span>
      {copy && <CopyButton text={text} className="-my-1.5 -mr-1.5" />}
    </span>
  );
}
