/**
 * Sockets that datagrams come to so fast that each wakes this process for a few of them,
 * which costs both the sender, who does the waking, and us more than the datagrams. Such
 * a socket raises no events for a while: it is looked into at intervals, short enough for
 * its buffer and for whoever waits, as long as that finds enough.
 */
import { type Epoll, EPOLLET, EPOLLIN } from "../../ffi/event.ts";

/** Sockets at once; others go on with events. */
const MOST = 64;
/** Datagrams in {@link WINDOW_MS} that make a socket a paced one. */
const ENTER = 100;
const WINDOW_MS = 1;
/**
 * Fewer of them in one interval, and it goes back to events: somebody may wait for the
 * answers to a few before going on.
 */
const STAY = 12;
/** To which the kernel adds its timer slack, 50 us. */
const INTERVAL_MS = 0.05;

/** The sockets that are looked into at intervals at the moment. */
export class PacedSockets {
  /** When the sockets are to be looked into. */
  #dueAt = 0;
  /** How many there are; they are numbered from 0. */
  count = 0;
  readonly #epoll: Epoll;
  readonly #fds = new Int32Array(MOST);
  /** The words that epoll gives back for each socket. */
  readonly #data = new Uint32Array(MOST);
  readonly #high = new Uint32Array(MOST);
  /** Datagrams that sockets got lately, at a place that follows from their descriptor. */
  readonly #lately = new Int32Array(MOST);
  readonly #latelyOf = new Int32Array(MOST).fill(-1);
  readonly #since = new Float64Array(MOST);

  constructor(epoll: Epoll) {
    this.#epoll = epoll;
  }

  /**
   * Notes that an event of a socket brought `taken` datagrams; if they are many, it is
   * paced from now on.
   *
   * @param data the words that the socket is watched with, and `high`
   */
  note(fd: number, data: number, high: number, taken: number, now: number): void {
    const at = fd & (MOST - 1);
    if (this.#latelyOf[at] !== fd || now - this.#since[at] > WINDOW_MS) {
      this.#latelyOf[at] = fd;
      this.#since[at] = now;
      this.#lately[at] = 0;
    }
    this.#lately[at] += taken;
    if (this.#lately[at] < ENTER || this.count === MOST || !this.#epoll.fine) return;
    if (this.#find(fd) >= 0) return;
    this.#latelyOf[at] = -1;
    if (!this.#epoll.tryModify(fd, EPOLLET, data, high)) return;
    if (this.count === 0) this.#dueAt = now + INTERVAL_MS;
    const i = this.count++;
    this.#fds[i] = fd;
    this.#data[i] = data;
    this.#high[i] = high;
  }

  /** Milliseconds until the sockets are to be looked into; -1 if there is none. */
  untilDue(now: number): number {
    if (this.count === 0) return -1;
    return this.#dueAt > now ? this.#dueAt - now : 0;
  }

  /** Whether it is time; if so, the next time is set. */
  due(now: number): boolean {
    if (this.count === 0 || now < this.#dueAt) return false;
    this.#dueAt = now + INTERVAL_MS;
    return true;
  }

  /** First word that socket `i` is watched with. */
  data(i: number): number {
    return this.#data[i];
  }

  /**
   * Notes what a look into socket `i` brought. If it was little, events come of it again,
   * and another socket, not looked into yet if one goes from the last to the first, takes
   * its place.
   */
  looked(i: number, taken: number): void {
    if (taken >= STAY) return;
    // What came since that look is an event at once.
    const fd = this.#fds[i];
    this.#epoll.tryModify(fd, EPOLLIN + EPOLLET, this.#data[i], this.#high[i]);
    this.#remove(i);
  }

  /** The socket is about to be closed, or watched anew. */
  forget(fd: number): void {
    const i = this.#find(fd);
    if (i >= 0) this.#remove(i);
  }

  #remove(i: number): void {
    const last = --this.count;
    this.#fds[i] = this.#fds[last];
    this.#data[i] = this.#data[last];
    this.#high[i] = this.#high[last];
  }

  #find(fd: number): number {
    for (let i = 0; i < this.count; i++) if (this.#fds[i] === fd) return i;
    return -1;
  }
}
