/**
 * One frontend's connection: what a request needs is checked by its rule, its handler
 * runs, and a reply goes out. Nothing a frontend sends makes a session throw: a request
 * that cannot be met is refused in its reply where one is due (REPLY_ACK), and ends the
 * connection where not.
 */
import { SyscallError } from "../../ffi/errno.ts";
import { close } from "../../ffi/event.ts";
import { writeBytes } from "../../ffi/unix_socket.ts";
import { MemoryError } from "../virtio/file_mapper.ts";
import { type Backend, NO_FD, type SessionLog } from "./backend.ts";
import { Channel, ENDED, INCOMPLETE, type Message } from "./channel.ts";
import type { Reply } from "./handlers.ts";
import {
  BackendRequest,
  HEADER_SIZE,
  ProtocolError,
  ProtocolFeature,
  Request,
  requestName,
  u64Payload,
  VERSION,
} from "./message.ts";
import { LATER, type Rule, RULES } from "./requests.ts";
import { SessionState } from "./session_state.ts";

/** Messages handled in one turn, so that a flood of them does not hold up packets. */
const MAX_PER_TURN = 64;

/** A connected frontend; one is served at a time. */
export class Session {
  readonly #channel: Channel;
  readonly #backend: Backend;
  readonly #log: SessionLog;
  readonly #state: SessionState;
  #over = false;
  #awaitsTransfer = false;

  /**
   * @param fd a connected, non-blocking UNIX stream socket, the session's from now on
   * @param backend serves this session alone until its closed() is called
   */
  constructor(fd: number, backend: Backend, log: SessionLog) {
    this.#channel = new Channel(fd);
    this.#backend = backend;
    this.#log = log;
    this.#state = new SessionState(backend, log);
  }

  /** To be watched for input. */
  get fd(): number {
    return this.#channel.fd;
  }
  /** The device status as the frontend set it (virtio 1.3, 2.1), 0 without STATUS. */
  get status(): number {
    return this.#state.status;
  }
  /** The frontend waits for the reply to CHECK_DEVICE_STATE: {@link transferEnded}. */
  get awaitsTransfer(): boolean {
    return this.#awaitsTransfer && !this.#over;
  }
  /** Whether the connection has ended. */
  get over(): boolean {
    return this.#over;
  }
  /** The frontend has gone, though there may be something to read yet. */
  get hungUp(): boolean {
    return this.#over || this.#channel.hungUp;
  }

  /**
   * Handles what came in, to be called whenever {@link fd} is readable or hung up. A
   * limited number of messages is taken; more are left for the next call.
   *
   * @returns false once the session is over: it has closed itself then
   */
  readable(): boolean {
    for (let i = 0; i < MAX_PER_TURN && !this.#over; i++) {
      let message;
      try {
        message = this.#channel.receive();
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
        this.#end(error.message);
        return false;
      }
      if (message === INCOMPLETE) return true;
      if (message === ENDED) {
        this.#log.debug("vhost-user: the frontend closed the connection");
        this.close();
        return false;
      }
      this.#dispatch(message);
    }
    return !this.#over;
  }

  #dispatch(message: Message): void {
    const { request } = message;
    const name = requestName(request);
    const rule = RULES.get(request);
    let reply: Reply | typeof LATER | void = undefined;
    let failure: string | undefined;
    try {
      if (this.#awaitsTransfer) {
        return this.#end(`${name}: came before the reply to CHECK_DEVICE_STATE`);
      }
      if (rule === undefined) throw new ProtocolError("is not supported");
      this.#check(rule, message);
      reply = rule.handle(this.#state, message);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      failure = error.message;
    } finally {
      message.closeFds();
    }
    const acknowledge = rule?.replies !== true && message.needReply &&
      this.#state.negotiated(ProtocolFeature.REPLY_ACK);
    if (failure !== undefined) {
      if (!acknowledge) return this.#end(`${name}: ${failure}`);
      this.#log.warn(`vhost-user: ${name} refused: ${failure}`);
      reply = u64Payload(1);
    } else {
      this.#log.debug(`vhost-user: ${name}`);
      if (reply === undefined && acknowledge) reply = u64Payload(0);
    }
    if (reply === LATER) {
      this.#awaitsTransfer = true;
      return;
    }
    if (reply !== undefined && !this.#reply(request, reply)) {
      this.#end(`${name}: the frontend does not take the reply`);
    }
  }

  /**
   * The reply to CHECK_DEVICE_STATE, which could not be given when it came.
   *
   * @param result 0 or an error number
   * @returns false once the session is over, as {@link readable} does
   */
  transferEnded(result: number): boolean {
    if (!this.awaitsTransfer) return !this.#over;
    this.#awaitsTransfer = false;
    if (!this.#reply(Request.CHECK_DEVICE_STATE, u64Payload(result))) {
      this.#end("CHECK_DEVICE_STATE: the frontend does not take the reply");
    }
    return !this.#over;
  }

  #reply(request: number, reply: Reply): boolean {
    if (reply instanceof Uint8Array) return this.#channel.reply(request, reply);
    const sent = this.#channel.reply(request, reply.payload, [reply.fd]);
    close(reply.fd);
    return sent;
  }

  /** What the table demands of a message before its handler sees it. */
  #check(rule: Rule, message: Message): void {
    const { gate, size, fds = [0, 0] } = rule;
    if (gate !== undefined) {
      const legal = "offered" in gate
        ? (this.#backend.protocolFeatures & gate.offered) !== 0
        : this.#state.negotiated(gate.negotiated);
      if (!legal) throw new ProtocolError("needs a protocol feature not negotiated");
    }
    const [least, most] = typeof size === "number" ? [size, size] : size;
    const length = message.payload.byteLength;
    if (length < least || length > most) {
      const expected = least === most ? `${least}` : `${least} to ${most}`;
      throw new ProtocolError(`payload of ${length} bytes, expected ${expected}`);
    }
    const count = message.fdCount;
    if (count < fds[0] || count > fds[1]) {
      const expected = fds[0] === fds[1] ? `${fds[0]}` : `${fds[0]} to ${fds[1]}`;
      throw new ProtocolError(`${count} descriptors, expected ${expected}`);
    }
  }

  /** Ends the session because of what the frontend did. */
  #end(reason: string): void {
    this.#log.warn(`vhost-user: connection closed: ${reason}`);
    this.close();
  }

  /** Stops all rings, unmaps guest memory and closes the connection. */
  close(): void {
    if (this.#over) return;
    this.#over = true;
    this.#state.close();
    this.#channel.close();
    this.#backend.closed();
  }

  /**
   * Tells the frontend that configuration space changed (BACKEND_REQ channel).
   *
   * @returns false if it cannot be told
   */
  notifyConfigChange(): boolean {
    const fd = this.#state.requestFd;
    if (fd === NO_FD || !this.#state.negotiated(ProtocolFeature.CONFIG)) return false;
    const message = new Uint8Array(HEADER_SIZE);
    const view = new DataView(message.buffer);
    view.setUint32(0, BackendRequest.CONFIG_CHANGE_MSG, true);
    view.setUint32(4, VERSION, true);
    // write(2), not send(2): virtio_uml gives a pipe.
    return writeBytes(fd, message) === message.length;
  }
}

/** Errors that are the frontend's: anything else is a defect of vuelo. */
function isRefusal(error: unknown): error is Error {
  return error instanceof ProtocolError || error instanceof MemoryError ||
    error instanceof SyscallError;
}
