import { useQuery } from "@tanstack/react-query";
import { Link2, UserPlus } from "lucide-react";
import { useState } from "react";
import { PATCH, POST, given } from "@/api/client";
import { type ApiProblem, asProblem } from "@/api/problem";
import { queries, usersQuery } from "@/api/queries";
import type { Role, User } from "@/api/types";
import { useCan, useMe } from "@/components/shell/me";
import { Avatar } from "@/components/ui/avatar";
import { Button } from "@/components/ui/button";
import { CopyButton } from "@/components/ui/copy-button";
import { Dialog } from "@/components/ui/dialog";
import { Field, Select, fieldLook } from "@/components/ui/field";
import { ProblemNote } from "@/components/ui/problem-note";
import { complain, say } from "@/components/ui/toasts";
import { exact } from "@/components/ui/words";
import { Row, Rows, SettingsPage, Waiting } from "./parts";

const ROLES: Record<Role, string> = {
  owner: "Everything, owners included",
  admin: "People, repositories, and what members may",
  member: "Start, prompt and manage sessions; merge",
  viewer: "Watch",
};
const ORDER: Role[] = ["owner", "admin", "member", "viewer"];

function rolesBelow(actor: Role): Role[] {
  return actor === "owner" ? ORDER : ORDER.slice(ORDER.indexOf(actor) + 1);
}

export function MembersPage() {
  const { data, error } = useQuery(usersQuery);
  const can = useCan();
  const [adding, setAdding] = useState(false);
  const [link, setLink] = useState<{ user: User; url: string; expires: string } | null>(null);
  const sendLink = (user: User) =>
    given(POST("/api/users/{user_id}/signin-link", { params: { path: { user_id: user.id } } })).then(
      (made) => setLink({ user, url: made.url, expires: made.expires_at }),
      complain,
    );
  return (
    <SettingsPage
      title="Members"
      about="Who has access. Nobody gets in who is not in this list; each signs in by a link that is made here."
      actions={
        can("users.manage") && (
          <Button look="primary" onClick={() => setAdding(true)}>
            <UserPlus className="size-4" /> Add a person
          </Button>
        )
      }
    >
      {error && <ProblemNote problem={asProblem(error)} />}
      {!data && !error && <Waiting what="the members" />}
      {data && (
        <Rows label="Members">
          {data.map((one) => (
            <Member key={one.id} user={one} onLink={() => void sendLink(one)} />
          ))}
        </Rows>
      )}
      <dl className="grid gap-x-6 gap-y-1 text-xs text-ink-3 sm:grid-cols-[auto_1fr]">
        {ORDER.map((role) => (
          <div key={role} className="contents">
            <dt className="font-medium text-ink-2 capitalize">{role}</dt>
            <dd className="max-sm:mb-1">{ROLES[role]}</dd>
          </div>
        ))}
      </dl>
      {adding && (
        <AddPerson
          onClose={() => setAdding(false)}
          onAdded={(user) => {
            setAdding(false);
            void sendLink(user);
          }}
        />
      )}
      {link && (
        <Dialog title={`A sign-in link for ${link.user.name}`} onClose={() => setLink(null)}>
          <div className="space-y-4 px-5 pb-5 text-sm">
            <p className="text-ink-2">
              Give it to {link.user.name} alone: whoever opens it is signed in as them. It works once, until {exact(link.expires)}.
            </p>
            <div className="flex items-center gap-1 rounded-lg border bg-sunken py-1 pr-1 pl-3">
              <code className="min-w-0 flex-1 font-mono text-xs break-all">{link.url}</code>
              <CopyButton text={link.url} label="Copy the link" />
            </div>
            <div className="flex justify-end">
              <Button look="primary" onClick={() => setLink(null)}>
                Done
              </Button>
            </div>
          </div>
        </Dialog>
      )}
    </SettingsPage>
  );
}

function Member({ user, onLink }: { user: User; onLink: () => void }) {
  const me = useMe();
  const can = useCan();
  const roles = rolesBelow(me.user.role);
  const self = user.id === me.user.id;
  const manageable = can("users.manage") && !self && roles.includes(user.role);
  const change = (body: { role?: Role; disabled?: boolean }, done: string) =>
    given(PATCH("/api/users/{user_id}", { params: { path: { user_id: user.id } }, body })).then(() => {
      say(done);
      return queries.invalidateQueries({ queryKey: usersQuery.queryKey });
    }, complain);
  return (
    <Row dim={Boolean(user.disabled_at)}>
      <Avatar name={user.name} id={user.id} size={28} dim={Boolean(user.disabled_at)} label={false} />
      <div className="min-w-40 flex-1">
        <p className="truncate font-medium">
          {user.name} {self && <span className="font-normal text-ink-3">(you)</span>}
        </p>
        <p className="truncate text-xs text-ink-3">
          {user.email}
          {user.disabled_at && " · disabled"}
        </p>
      </div>
      {manageable ? (
        <select aria-label={`Role of ${user.name}`} value={user.role} onChange={(event) => void change({ role: event.target.value as Role }, "The role is changed.")} className={fieldLook}>
          {roles.map((role) => (
            <option key={role} value={role}>
              {role}
            </option>
          ))}
        </select>
      ) : (
        <span className="px-2 text-sm text-ink-2">{user.role}</span>
      )}
      {(manageable || (self && can("users.manage"))) && (
        <Button size="sm" disabled={Boolean(user.disabled_at)} onClick={onLink}>
          <Link2 className="size-3.5" /> Sign-in link
        </Button>
      )}
      {manageable && (
        <Button size="sm" look={user.disabled_at ? "secondary" : "danger"} onClick={() => void change({ disabled: !user.disabled_at }, user.disabled_at ? "Enabled." : "Disabled, and signed out everywhere.")}>
          {user.disabled_at ? "Enable" : "Disable"}
        </Button>
      )}
    </Row>
  );
}

function AddPerson({ onClose, onAdded }: { onClose: () => void; onAdded: (user: User) => void }) {
  const me = useMe();
  const [name, setName] = useState("");
  const [email, setEmail] = useState("");
  const [role, setRole] = useState<Role>("member");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  return (
    <Dialog title="Add a person" onClose={onClose}>
      <form
        className="space-y-4 px-5 pb-5"
        onSubmit={(event) => {
          event.preventDefault();
          setBusy(true);
          given(POST("/api/users", { body: { name, email, role } }))
            .then(
              (user) => {
                void queries.invalidateQueries({ queryKey: usersQuery.queryKey });
                onAdded(user);
              },
              (thrown: unknown) => setProblem(asProblem(thrown)),
            )
            .finally(() => setBusy(false));
        }}
      >
        <Field label="Name" value={name} onChange={(event) => setName(event.target.value)} maxLength={200} required autoComplete="off" />
        <Field label="E-mail" type="email" value={email} onChange={(event) => setEmail(event.target.value)} required autoComplete="off" help="Their commits carry it. Nothing is sent to it." />
        <Select label="Role" value={role} onChange={(event) => setRole(event.target.value as Role)} help={ROLES[role]}>
          {rolesBelow(me.user.role).map((one) => (
            <option key={one} value={one}>
              {one}
            </option>
          ))}
        </Select>
        {problem && <ProblemNote problem={problem} />}
        <div className="flex justify-end gap-2">
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" look="primary" busy={busy}>
            Add and make a link
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
