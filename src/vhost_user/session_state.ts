/** What a session knows of its frontend between one message and the next. */
import { close } from "../../ffi/event.ts";
import { type Backend, NO_FD, type SessionLog } from "./backend.ts";
import { VHOST_USER_F_PROTOCOL_FEATURES } from "./message.ts";
import { Rings } from "./rings.ts";

/** What a frontend has set so far. */
export class SessionState {
  /** What is known of each ring, and which of them run. */
  readonly rings: Rings;
  /** Low word of the accepted features. */
  features = 0;
  /** SET_FEATURES came. */
  featuresSet = false;
  /** SET_PROTOCOL_FEATURES came. */
  protocolFeaturesSet = false;
  /** Low word of the accepted protocol features; there is none above. */
  protocolFeatures = 0;
  /** The device's status, as SET_STATUS gave it. */
  status = 0;
  /** Channel for requests of ours (SET_BACKEND_REQ_FD). */
  requestFd = NO_FD;

  constructor(readonly backend: Backend, private readonly log: SessionLog) {
    this.rings = new Rings(backend, log);
  }

  /**
   * Whether the frontend knows of VHOST_USER_F_PROTOCOL_FEATURES. QEMU enables rings
   * before it sends SET_FEATURES, but says which protocol features it wants at first.
   */
  get knowsProtocolFeatures(): boolean {
    return this.featuresSet
      ? (this.features & VHOST_USER_F_PROTOCOL_FEATURES) !== 0
      : this.protocolFeaturesSet;
  }

  /** Whether the frontend accepted this protocol feature, one of ProtocolFeature. */
  negotiated(feature: number): boolean {
    return (this.protocolFeatures & feature) !== 0;
  }

  /** Says once that the frontend could end this process by shrinking its memory. */
  noteShrinkable(): void {
    const { files } = this.backend.memory;
    if (files.shrinkableTold || !files.shrinkable) return;
    files.shrinkableTold = true;
    this.log.info(
      "guest memory is in a file that could be made shorter, which would end vuelo " +
        "(SIGBUS); --sealed-memory refuses such files",
    );
  }

  /** Takes a channel for requests of ours, and closes the one before; NO_FD for none. */
  setRequestFd(fd: number): void {
    if (this.requestFd !== NO_FD) close(this.requestFd);
    this.requestFd = fd;
  }

  /** Stops all rings, lets go of guest memory and closes all descriptors. */
  close(): void {
    this.rings.close();
    this.backend.memory.clear();
    this.setRequestFd(NO_FD);
  }
}
