/** A frontend whose guest is a namespace: the kernel's own TCP, at native speed. */

export interface GuestSpace {
  readonly namespace: string;
  /** Connects to a back-end, and brings the link up with addresses. */
  attach(socket: string, mtu: number, queues: number): Promise<void>;
  detach(): Promise<void>;
  /** Frames of the guest that were lost before the back-end could see them, so far. */
  dropped(): Promise<number>;
  /** What helps to understand a failure. */
  readonly output: string;
  close(): Promise<void>;
}

export interface Frontend {
  readonly name: string;
  create(): Promise<GuestSpace>;
}
