/** What is wrong with the contents of a queue pair's rings: counted, and told. */
import type { FrameSink } from "../virtio/frame_sink.ts";
import type { FrameSource } from "../virtio/frame_source.ts";

/** Counts what is wrong with a queue pair's rings, and tells its owner. */
export class RingFaults {
  /** A ring's contents made no sense: its queue (0 receives, 1 transmits) is stopped. */
  onBroken: (queue: number) => void = () => {};
  /** Chains of a turn made no sense: they went back unused. */
  onBadChains: (queue: number, count: number) => void = () => {};
  /** Queues that were stopped. */
  broken = 0;
  #rx = 0;
  #tx = 0;

  constructor(private readonly source: FrameSource, private readonly sink: FrameSink) {}

  /** Notes that a queue was stopped: 0 receives, 1 transmits. */
  stopped(queue: number): void {
    this.broken++;
    this.onBroken(queue);
  }

  /** To be called once in a turn: looks for bad chains. */
  look(): void {
    const { source, sink } = this;
    if (source.badChains === this.#tx && sink.badChains === this.#rx) return;
    const [rx, tx] = [sink.badChains - this.#rx, source.badChains - this.#tx];
    this.#rx = sink.badChains;
    this.#tx = source.badChains;
    if (rx > 0) this.onBadChains(0, rx);
    if (tx > 0) this.onBadChains(1, tx);
  }
}
