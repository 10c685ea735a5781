/** A session of the code under test and a frontend, joined by a listening socket. */
import type { Backend, SessionLog } from "../../src/vhost_user/backend.ts";
import { Listener } from "../../src/vhost_user/listener.ts";
import { Session } from "../../src/vhost_user/session.ts";
import {
  Ask,
  asU64,
  Descriptors,
  Frontend,
  GuestRam,
  memoryTable,
  openDescriptors,
  region,
  type Reply,
  type SendOptions,
  state,
  u64,
  vringAddress,
} from "./frontend.ts";
import { RecordingBackend } from "./recording_backend.ts";

/** Bit 30: the frontend knows protocol features. */
export const PROTOCOL_FEATURES = 2 ** 30;
/** All protocol features that the recording backend offers. */
export const ALL_FEATURES = new RecordingBackend().protocolFeatures;
export const RAM_SIZE = 0x40000;
/** Where the guest sees its memory in these tests. */
export const GUEST_BASE = 0x1_0000_0000;

export class LogLines implements SessionLog {
  readonly lines: string[] = [];
  warn(message: string): void {
    this.lines.push(message);
  }
  info(message: string): void {
    this.lines.push(message);
  }
  debug(_message: string): void {}
}

/** Joins a frontend and a session of the code under test by a socket. */
export function connectSession(
  backend: Backend,
  log: SessionLog,
): { readonly frontend: Frontend; readonly session: Session } {
  const folder = Deno.makeTempDirSync();
  const listener = new Listener(`${folder}/socket`, log);
  const frontend = Frontend.connect(listener.path);
  const session = new Session(listener.accept(null), backend, log);
  listener.close();
  Deno.removeSync(folder);
  return { frontend, session };
}

export class Joined {
  readonly backend = new RecordingBackend();
  readonly log = new LogLines();
  readonly fds = new Descriptors();
  readonly frontend: Frontend;
  readonly session: Session;
  readonly #ram: GuestRam[] = [];

  constructor() {
    const { frontend, session } = connectSession(this.backend, this.log);
    this.frontend = frontend;
    this.session = session;
  }

  /** Sends a message and has the session handle it; its reply if one came. */
  readonly ask = (
    request: number,
    bytes?: Uint8Array,
    options?: SendOptions,
  ): Reply | null => {
    this.frontend.send(request, bytes, options);
    this.session.readable();
    return this.frontend.receive();
  };

  /** As ask() with need_reply; what the reply holds. */
  readonly acknowledged = (
    request: number,
    bytes?: Uint8Array,
    fds: readonly number[] = [],
  ): number => {
    const reply = this.ask(request, bytes, { needReply: true, fds });
    if (reply === null) throw new Error(`no reply: ${this.log.lines.join("; ")}`);
    return asU64(reply.payload);
  };

  /** Accepts bit 30 and all protocol features. */
  readonly negotiate = (): void => {
    this.ask(Ask.SET_PROTOCOL_FEATURES, u64(ALL_FEATURES));
    this.ask(Ask.SET_FEATURES, u64(PROTOCOL_FEATURES));
    this.backend.take();
  };

  /** Shares one region of guest memory at GUEST_BASE. */
  shareMemory(): GuestRam {
    const ram = this.ram();
    this.ask(
      Ask.SET_MEM_TABLE,
      memoryTable(region(GUEST_BASE, ram.size, ram.userAddress, 0)),
      { fds: [ram.fd] },
    );
    return ram;
  }

  ram(): GuestRam {
    const ram = new GuestRam(RAM_SIZE);
    this.#ram.push(ram);
    return ram;
  }

  /** Size 256, base 7, areas in the first pages of `ram`, and a kick. */
  setUpRing(index: number, ram: GuestRam): void {
    const at = ram.userAddress + index * 0x4000;
    this.ask(Ask.SET_VRING_NUM, state(index, 256));
    this.ask(Ask.SET_VRING_BASE, state(index, 7));
    this.ask(Ask.SET_VRING_ADDR, vringAddress(index, at, at + 0x2000, at + 0x1000));
    this.ask(Ask.SET_VRING_KICK, u64(index), { fds: [this.fds.event()] });
  }

  [Symbol.dispose](): void {
    this.session.close();
    this.frontend.close();
    for (const ram of this.#ram) ram.close();
    this.fds[Symbol.dispose]();
  }
}

/** A test in which no descriptor may be lost. */
export function joined(name: string, body: (pair: Joined) => void): void {
  Deno.test(name, () => {
    const before = openDescriptors();
    {
      using pair = new Joined();
      body(pair);
    }
    const lost = openDescriptors() - before;
    if (lost !== 0) throw new Error(`${lost} descriptors lost`);
  });
}
