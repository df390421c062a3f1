// Runs inside OpenCode. A running process's environment can't be changed: what a command is to see comes from a file that the runtime
// writes, read anew for each command; the server's own settings are taken out.
import { readFileSync } from "node:fs"

const OWN = /^(OPENCODE_(SERVER_PASSWORD|CONFIG|DISABLE_.*)|OPENINSPECT_SHELL_ENV|npm_config_.*)$/

export const OpenInspectShellEnv = async () => {
  const file = process.env.OPENINSPECT_SHELL_ENV
  return {
    "shell.env": async (_input, output) => {
      for (const name of Object.keys(process.env)) if (OWN.test(name)) output.env[name] = undefined
      if (file) Object.assign(output.env, JSON.parse(readFileSync(file, "utf8")))
    },
  }
}
