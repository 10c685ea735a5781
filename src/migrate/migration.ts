/**
 * The state machine of a guest's move (VHOST_USER_PROTOCOL_F_DEVICE_STATE of the
 * vhost-user specification, "Migrating back-end state").
 *
 *     source:  idle -> saving -> saved -> idle     the frontend went, or the guest stayed
 *     target:  idle -> loading -> loaded -> idle   the guest runs, or the frontend went
 *
 * Until the guest runs at the target nothing is final: what was saved is kept frozen and
 * goes on if the guest does at the source, and what was loaded is dropped in silence if
 * the frontend goes before the guest ran.
 */
import { Errno, errnoName, SyscallError } from "../../ffi/errno.ts";
import {
  close,
  type Epoll,
  EPOLLERR,
  EPOLLIN,
  EPOLLOUT,
  isPollable,
} from "../../ffi/event.ts";
import { setNonBlocking } from "../../ffi/memory.ts";
import {
  awaitReady,
  createPipe,
  isReadable,
  isWritable,
  POLLIN,
  POLLOUT,
} from "../../ffi/pipe.ts";
import { DEFAULT_LIMITS, type StateFormat } from "../config.ts";
import { TransferDirection } from "../vhost_user/backend.ts";
import type { SessionLog, TransferAnswer } from "../vhost_user/backend.ts";
import { HEADER_SIZE } from "../wire/state/header.ts";
import { formatState, judgeStart, type ParsedState, parseState } from "./codec.ts";
import type { Movable } from "./movable.ts";
import { StateReceiver } from "./receiver.ts";
import { AGAIN, DONE, StateSender } from "./sender.ts";
import { findVersion, newestVersion, type Stage } from "./versions.ts";
import { Stopwatch, summarize } from "./summary.ts";

/** VHOST_TRANSFER_STATE_PHASE_STOPPED, the only one there is. */
const PHASE_STOPPED = 0;
/** CHECK_DEVICE_STATE waits so long for more of a transfer, while nothing else is done. */
const MORE_MS = 20;
/** And so often: whoever sends byte by byte shall not keep the loop for itself. */
const MORE_ROUNDS = 50;
/** So long after that the rest of the transfer must be through. */
const REST_MS = 10_000;
/** What is frozen for want of a repair helper is given up after so long. */
const THAW_LIMIT_MS = 60_000;
const PROGRESS_MS = 1000;
/** After a transfer, until the frontend has had all the answers that a guest waits for. */
const QUIET_MS = 100;
/** A stream's header and its table of sections, by which it is refused early. */
const JUDGED = HEADER_SIZE + 4096;

const REFUSED: TransferAnswer = { accepted: false };
const NONE = -1;

const Phase = {
  idle: "idle",
  saving: "saving",
  saved: "saved",
  loading: "loading",
  loaded: "loaded",
  /** To go on here, but not thawed yet. */
  thawing: "thawing",
} as const;
type Phase = typeof Phase[keyof typeof Phase];

/** A guest's move to or from here, one at a time. */
export class Migration {
  #phase: Phase = Phase.idle;
  /** What a transfer that fails leaves: a guest may be saved from where it never ran. */
  #before: Phase = Phase.idle;
  #fd = NONE;
  /** Counts transfers, to tell a late event from a current one. */
  #number = 0;
  #result: number = Errno.EINVAL;
  #sender: StateSender | undefined;
  #receiver: StateReceiver | undefined;
  #watch = new Stopwatch();
  #progressAt = Infinity;
  #giveUpAt = Infinity;
  /** When a transfer that was checked is given up. */
  #overdueAt = Infinity;
  /** The summary, while it waits to be logged. */
  #line = "";
  #sayAt = Infinity;

  /**
   * @param data what epoll results for the transfer's descriptor carry
   */
  constructor(
    private readonly guest: Movable,
    private readonly format: StateFormat,
    private readonly epoll: Epoll,
    private readonly data: number,
    private readonly log: SessionLog,
    private readonly maxState: number = DEFAULT_LIMITS.state,
  ) {}

  /** SET_DEVICE_STATE_FD; `stopped` says whether no ring runs. */
  begin(
    direction: number,
    phase: number,
    fd: number,
    stopped: boolean,
  ): TransferAnswer {
    const problem = this.#refusal(direction, phase, fd, stopped);
    if (problem !== undefined) {
      this.log.warn(`migration refused: ${problem}`);
      return REFUSED;
    }
    this.#say();
    const saving = direction === TransferDirection.save;
    let instead: number | undefined;
    try {
      instead = this.#open(fd, saving);
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      this.log.warn(`migration refused: ${error.message}`);
      return REFUSED;
    }
    const kept = this.#phase === Phase.saved || this.#phase === Phase.loaded;
    if (kept && !saving) this.guest.discard(); // its place is taken
    this.#before = kept && saving ? this.#phase : Phase.idle;
    this.#phase = saving ? Phase.saving : Phase.loading;
    this.#result = Errno.EBUSY;
    this.#overdueAt = Infinity;
    this.#progressAt = performance.now() + PROGRESS_MS;
    this.#sender = undefined;
    this.#receiver = saving ? undefined : new StateReceiver(this.#fd, this.maxState);
    this.#watch = new Stopwatch();
    this.log.debug(`migration: ${this.#phase}`);
    return { accepted: true, instead };
  }

  /**
   * Watches a transfer's descriptor or, if it cannot be waited for, a pipe in its place.
   *
   * @returns the frontend's end of the pipe, if there is one
   * @throws {SyscallError} without descriptors or memory; `fd` stays open then
   */
  #open(fd: number, saving: boolean): number | undefined {
    const event = saving ? EPOLLOUT : EPOLLIN;
    if (isPollable(fd)) {
      setNonBlocking(fd);
      this.epoll.add(fd, event, this.data, ++this.#number);
      this.#fd = fd;
      return undefined;
    }
    const [reading, writing] = createPipe();
    const [ours, theirs] = saving ? [writing, reading] : [reading, writing];
    try {
      setNonBlocking(ours);
      this.epoll.add(ours, event, this.data, ++this.#number);
    } catch (error) {
      close(ours);
      close(theirs);
      throw error;
    }
    close(fd);
    this.#fd = ours;
    return theirs;
  }

  #refusal(
    direction: number,
    phase: number,
    fd: number,
    stopped: boolean,
  ): string | undefined {
    const saving = direction === TransferDirection.save;
    if (!saving && direction !== TransferDirection.load) {
      return `direction ${direction}, expected 0 (save) or 1 (load)`;
    }
    if (phase !== PHASE_STOPPED) return `phase ${phase}, expected 0 (stopped)`;
    if (!stopped) return "a queue runs, expected all to be stopped first";
    if (this.#phase === Phase.saving || this.#phase === Phase.loading) {
      return `another transfer is under way (${this.#phase})`;
    }
    if (this.#phase === Phase.thawing) return "the last move is not undone yet";
    const usable = saving ? isWritable(fd) : isReadable(fd);
    if (!usable) return `the descriptor cannot be ${saving ? "written" : "read"}`;
    return undefined;
  }

  /**
   * The transfer's descriptor is ready: writable at the source, readable at the target.
   *
   * @param number second word of the epoll result
   */
  onEvent(events: number, number: number = this.#number): void {
    if (number !== this.#number) return;
    try {
      if (this.#phase === Phase.saving) {
        // A pipe that nobody reads any more can be written to, as epoll has it.
        const open = (events & EPOLLOUT) !== 0 && (events & EPOLLERR) === 0;
        if (!open) this.#fail(Errno.EIO, "the frontend hung up");
        else this.#save();
      } else if (this.#phase === Phase.loading) {
        const nothing = (events & EPOLLIN) === 0 && this.#receiver!.received === 0;
        if (nothing) this.#fail(Errno.EIO, "the frontend hung up");
        else this.#load();
      }
    } catch (error) {
      this.#broke(error);
    }
  }

  /** A move that fails for want of memory, or by a defect, costs nobody the guest. */
  #broke(error: unknown): void {
    if (this.#phase !== Phase.saving && this.#phase !== Phase.loading) throw error;
    const number = error instanceof RangeError ? Errno.ENOMEM : Errno.EIO;
    this.#fail(number, error instanceof Error ? error.message : String(error));
  }

  #save(): void {
    const row = newestVersion(this.format);
    if (this.#sender === undefined) {
      if (!this.#run(row.beforeSave)) return;
      this.#watch.lap("freeze");
      const { chunks, counts, left } = formatState(row, this.guest.save());
      for (const line of left) this.log.warn(line);
      this.#watch.lap("save");
      this.#watch.note(counts);
      this.#sender = new StateSender(this.#fd, chunks);
    }
    const outcome = this.#sender.push();
    if (outcome === AGAIN) return this.#progress(this.#sender.sent, this.#sender.total);
    if (outcome !== DONE) {
      return this.#fail(outcome, `the state cannot be written: ${errnoName(outcome)}`);
    }
    this.#watch.lap("write");
    if (!this.#run(row.afterSave)) return;
    const { total } = this.#sender;
    this.#finish(Phase.saved);
    this.#sayLater(summarize("saved", this.#watch, total));
  }

  #load(): void {
    const receiver = this.#receiver!;
    const outcome = receiver.pull();
    if (outcome === AGAIN) {
      const wrong = judgeStart(receiver.start(JUDGED), this.maxState);
      if (wrong !== undefined) return this.#fail(wrong.number, wrong.problem);
      return this.#progress(receiver.received, 0);
    }
    if (outcome !== DONE) {
      const most = `it is longer than ${this.maxState >> 20} MiB (--max-state)`;
      const why = outcome === Errno.EFBIG ? most : errnoName(outcome);
      return this.#fail(outcome, `the state cannot be read: ${why}`);
    }
    this.#watch.lap("read");
    const parsed = parseState(receiver.bytes());
    if ("problem" in parsed) return this.#fail(parsed.number, parsed.problem);
    this.#watch.lap("parse");
    this.#take(parsed);
  }

  #take(parsed: ParsedState): void {
    this.log.debug(`migration: ${parsed.description}`);
    const row = findVersion(parsed.format, parsed.version);
    if (row === undefined) {
      const what = `format ${parsed.format}, version ${parsed.version}`;
      return this.#fail(Errno.EOPNOTSUPP, `${what} is not known here`);
    }
    if (!this.#run(row.beforeLoad, parsed.state)) return;
    if (!this.#run(row.afterLoad, parsed.state)) return;
    this.#watch.lap("restore");
    this.#watch.note(parsed.counts);
    const { received } = this.#receiver!;
    this.#finish(Phase.loaded);
    this.#sayLater(summarize("loaded", this.#watch, received));
  }

  #run(stages: readonly Stage[], state?: ParsedState["state"]): boolean {
    for (const stage of stages) {
      const number = stage.run(this.guest, state);
      if (number === 0) continue;
      this.#fail(number, `stage '${stage.name}': ${errnoName(number)}`);
      return false;
    }
    return true;
  }

  /** A line now and then while much is moved. */
  #progress(moved: number, total: number): void {
    const now = performance.now();
    if (now < this.#progressAt) return;
    if (moved > 0) {
      const of = total > 0 ? ` of ${megabytes(total)}` : "";
      const { tcp } = this.#watch.counts;
      const whose = total > 0
        ? `, ${Math.floor(tcp * moved / total)} of ${tcp} connections`
        : "";
      this.log.info(`migration: ${megabytes(moved)}${of} MB moved${whose}`);
    }
    this.#progressAt = now + PROGRESS_MS;
  }

  /** For the log, when nobody waits any more. */
  #sayLater(line: string): void {
    this.#line = line;
    this.#sayAt = performance.now() + QUIET_MS;
  }

  #say(): void {
    if (this.#line !== "") this.log.info(this.#line);
    this.#line = "";
    this.#sayAt = Infinity;
  }

  /** All is done: closing the descriptor tells the other side so. */
  #finish(phase: Phase): void {
    this.#closeFd();
    this.#phase = phase;
    this.#result = 0;
  }

  #fail(number: number, problem: string): void {
    const saving = this.#phase === Phase.saving;
    this.#closeFd();
    this.#phase = this.#before;
    this.#result = number;
    this.log.warn(`migration failed: ${problem}`);
    if (!saving) this.guest.discard();
    else if (this.#phase === Phase.idle) this.#thaw();
  }

  /** No transfer is under way: {@link check} answers at once. */
  get ended(): boolean {
    return this.#phase !== Phase.saving && this.#phase !== Phase.loading;
  }

  /** Nothing of a move is left here. */
  get idle(): boolean {
    return this.#phase === Phase.idle;
  }

  /**
   * CHECK_DEVICE_STATE: 0 or an error number. Unless {@link ended}, it is not known yet,
   * and EBUSY, and to be asked for again: what is missing must come within 10 seconds.
   */
  check(): number {
    for (let round = 0; !this.ended; round++) {
      const saving = this.#phase === Phase.saving;
      const event = saving ? POLLOUT : POLLIN;
      if (round === MORE_ROUNDS || !awaitReady(this.#fd, event, MORE_MS)) {
        this.#overdueAt = Math.min(this.#overdueAt, performance.now() + REST_MS);
        return Errno.EBUSY;
      }
      this.onEvent(saving ? EPOLLOUT : EPOLLIN);
    }
    return this.#result;
  }

  /** The guest runs here: at the target, or at the source after all. */
  ringsRun(): void {
    if (this.#phase === Phase.saving) this.#fail(Errno.ECANCELED, "the guest runs again");
    switch (this.#phase) {
      case Phase.loading:
        this.#fail(Errno.ECANCELED, "the guest runs already");
        return;
      case Phase.saved:
        this.#say();
        this.log.info("migration undone: the guest goes on here");
        this.#thaw();
        return;
      case Phase.loaded:
      case Phase.thawing:
        this.#thaw();
    }
  }

  #thaw(): void {
    const number = this.guest.thaw();
    if (number === 0) {
      this.#phase = Phase.idle;
      this.#giveUpAt = Infinity;
      return;
    }
    if (this.#phase === Phase.thawing) return;
    this.#phase = Phase.thawing;
    this.#giveUpAt = performance.now() + THAW_LIMIT_MS;
    this.log.warn(
      `connections stay frozen (${errnoName(number)}): start 'vuelo repair' with the ` +
        `repair socket within ${THAW_LIMIT_MS / 1000} s`,
    );
  }

  /** A repair helper has come, which frozen connections may wait for. */
  helperCame(): void {
    if (this.#phase === Phase.thawing) this.#thaw();
  }

  /**
   * Gives up what has been frozen for too long, and thaws what froze late; to be called
   * about once a second.
   */
  tick(): void {
    if (this.#sayAt !== Infinity && performance.now() >= this.#sayAt) this.#say();
    if (this.#overdueAt !== Infinity && performance.now() >= this.#overdueAt) {
      this.#overdueAt = Infinity;
      const problem = "the transfer was checked before it was complete";
      if (!this.ended) this.#fail(Errno.ETIMEDOUT, problem);
    }
    const idle = this.#phase === Phase.idle;
    if ((idle || this.#phase === Phase.thawing) && this.guest.catchLate() && idle) {
      this.log.warn("connections were frozen by a repair helper that was given up");
      this.#thaw();
    }
    if (this.#giveUpAt === Infinity || performance.now() < this.#giveUpAt) return;
    this.#giveUpAt = Infinity;
    this.#phase = Phase.idle;
    this.log.warn("no repair helper came: frozen connections are reset");
    this.guest.reset();
  }

  /** The frontend went: what is frozen goes on elsewhere. */
  gone(): void {
    this.#say();
    const frozen = this.#phase !== Phase.idle;
    this.#closeFd();
    this.#phase = Phase.idle;
    this.#result = Errno.EINVAL;
    this.#giveUpAt = Infinity;
    if (frozen) this.guest.discard();
  }

  /** Ends the transfer as far as it takes up anything. */
  #closeFd(): void {
    this.#sender = undefined;
    this.#receiver = undefined;
    if (this.#fd === NONE) return;
    // The frontend may share it, and then it would be watched on.
    this.epoll.tryRemove(this.#fd);
    close(this.#fd);
    this.#fd = NONE;
  }
}

function megabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}
