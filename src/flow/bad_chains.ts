/** Chains of descriptors that made no sense, noticed once in a turn. */
import type { FrameSink } from "../virtio/frame_sink.ts";
import type { FrameSource } from "../virtio/frame_source.ts";

export class BadChains {
  /** Called with a queue (0 receives, 1 transmits) and the chains of this turn. */
  onFound: (queue: number, count: number) => void = () => {};
  #rx = 0;
  #tx = 0;

  constructor(private readonly source: FrameSource, private readonly sink: FrameSink) {}

  /** To be called once in a turn. */
  look(): void {
    const { source, sink } = this;
    if (source.badChains === this.#tx && sink.badChains === this.#rx) return;
    const [rx, tx] = [sink.badChains - this.#rx, source.badChains - this.#tx];
    this.#rx = sink.badChains;
    this.#tx = source.badChains;
    if (rx > 0) this.onFound(0, rx);
    if (tx > 0) this.onFound(1, tx);
  }
}
