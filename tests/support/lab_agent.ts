/** The operations of the lab's agent (scripts/lab/guest/agent.py), with their results. */
import { type JsonLink, RequestError } from "./lab_json.ts";

/** The ports on which an agent serves after `serve`. */
export const Port = {
  source: 7000,
  sink: 7001,
  echo: 7002,
  lateEcho: 7003,
  reset: 7004,
  silent: 7005,
  udpEcho: 7010,
  udpJoined: 7011,
} as const;

/** A stream's length and its SHA-256 at both ends. */
export interface Transfer {
  readonly bytes: number;
  readonly sent: string;
  readonly received: string;
  readonly seconds: number;
}

/** What became of several connections: how many went well, and errors by name. */
export interface Tally {
  readonly good: number;
  readonly errors: Record<string, number>;
  readonly seconds?: number;
}

/** What a port of the agent saw; `last` is the address and port of the last peer. */
export interface PortStats {
  readonly count: number;
  readonly open: number;
  readonly last: [string, number];
}

/** Frames of one direction and protocol that an interface's driver took or gave. */
export interface Watched {
  readonly frames: number;
  readonly longest: number;
  /** With a checksum that the other side is to complete. */
  readonly partial: number;
}

/** Each operation: its arguments and its result. */
interface Operations {
  serve: [Record<never, never>, null];
  serve_echo: [{ port: number }, null];
  serve_names: [{ names: Record<string, string[]>; port?: number }, null];
  serve_http: [{ size: number; port?: number }, null];
  stats: [Record<never, never>, Record<string, PortStats>];
  download: [{ host: string; bytes: number; port?: number; stall?: number }, Transfer];
  upload: [{ host: string; bytes: number; port?: number }, Transfer];
  echo: [
    { host: string; bytes: number; port?: number; source?: string },
    Omit<Transfer, "seconds">,
  ];
  connect: [
    { host: string; port: number; timeout?: number },
    { outcome: string; seconds: number },
  ];
  reset: [{ host: string; port?: number }, { bytes: number; outcome: string }];
  send_reset: [{ host: string; port?: number }, null];
  many: [{ host: string; count: number; bytes: number; port?: number }, Tally];
  short: [{ host: string; count: number; port?: number }, Tally];
  udp_echo: [
    {
      host: string;
      first: number;
      last: number;
      step?: number;
      port?: number;
      tries?: number;
    },
    { failed: [number, string][]; retried: [number, string][] },
  ];
  udp_joined: [{ host: string; size: number; count: number; port?: number }, number[]];
  resolve: [
    { name: string; server: string; kind?: number; timeout?: number },
    { code: number; addresses: string[] },
  ];
  exec: [
    { argv: string[]; timeout?: number; input?: string },
    { code: number; stdout: string; stderr: string },
  ];
  spawn: [{ argv: string[] }, number];
  kill: [{ pid: number; signal?: number }, number];
  write: [{ path: string; text: string }, null];
  watch: [{ interface?: string }, null];
  watched: [{ interface?: string }, Record<string, Watched>];
  wait: [{ path: string; contains: string; timeout?: number }, string];
}

/** An agent at the other end of a link. */
export class Agent {
  constructor(readonly link: JsonLink) {}

  /** Has the agent do `op`; several may be under way at once. Throws RequestError. */
  async call<K extends keyof Operations>(
    op: K,
    args: Operations[K][0],
    limit = 180_000,
  ): Promise<Operations[K][1]> {
    const reply = await this.link.request({ op, ...args }, limit);
    if (reply.error !== undefined) {
      throw new RequestError(`${this.link.name}: ${op}: ${reply.error}`);
    }
    return reply.result as Operations[K][1];
  }

  /** Runs a program and returns its standard output; throws unless it exits with 0. */
  async run(...argv: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.call("exec", { argv });
    if (code === 0) return stdout;
    throw new RequestError(
      `${this.link.name}: ${argv.join(" ")}: status ${code}: ${stdout}${stderr}`,
    );
  }

  /** Runs a line of shell and returns its standard output; throws unless it exits with 0. */
  async shell(line: string): Promise<string> {
    return await this.run("sh", "-c", line);
  }
}
