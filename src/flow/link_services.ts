/**
 * The services on the guest's link at work: who asks for addresses, neighbours and routers
 * is answered, routers are advertised unasked, and a guest that has come from elsewhere is
 * told where it is.
 */
import type { Config } from "../config.ts";
import { Arp } from "../services/arp.ts";
import { Dhcpv4 } from "../services/dhcpv4.ts";
import { Dhcpv6 } from "../services/dhcpv6.ts";
import type { GuestState } from "../services/guest_state.ts";
import { unreachable } from "../services/icmp_error.ts";
import { Ndp } from "../services/ndp.ts";
import type { FrameSink } from "../virtio/frame_sink.ts";
import type { FrameSource } from "../virtio/frame_source.ts";
import { completeChecksum } from "../virtio/net_header.ts";
import type { DropCounters } from "./context.ts";

/** Longest frame that a service answers. */
const SERVICE_FRAME = 2048;
/** MaxRtrAdvInterval of RFC 4861, section 6.2.1, at its default. */
const ADVERTISE_MS = 600_000;
/** A guest that has come from elsewhere first goes on with what it did. */
const ANNOUNCE_MS = 1000;

/** The data path that the services belong to. */
interface ServedPath {
  readonly config: Config;
  readonly guest: GuestState;
  readonly source: FrameSource;
  readonly sink: FrameSink;
  readonly drops: DropCounters;
  /** Milliseconds of the monotonic clock. */
  readonly now: number;
  /** Whether the guest can be sent frames. */
  readonly receiving: boolean;
}

/** One that answers a frame of `length` bytes: the reply's bytes, 0 for none. */
interface Service {
  respond(frame: DataView, length: number, reply: DataView): number;
}

/** ARP, NDP, DHCP and DHCPv6 for the guest of one data path. */
export class LinkServices {
  /** Answers ARP (RFC 826). */
  readonly arp: Arp;
  /** Answers Neighbour Discovery (RFC 4861). */
  readonly ndp: Ndp;
  /** Answers DHCP (RFC 2131). */
  readonly dhcpv4: Dhcpv4;
  /** Answers DHCPv6 (RFC 8415). */
  readonly dhcpv6: Dhcpv6;
  readonly #path: ServedPath;
  readonly #frame = new DataView(new ArrayBuffer(SERVICE_FRAME));
  readonly #reply = new DataView(new ArrayBuffer(SERVICE_FRAME));
  #advertiseAt = Infinity;
  #announceAt = Infinity;

  /** @param path whose guest is served; its parts must be there already */
  constructor(path: ServedPath) {
    this.#path = path;
    const { config, guest } = path;
    this.arp = new Arp(config, guest);
    this.ndp = new Ndp(config, guest);
    this.dhcpv4 = new Dhcpv4(config, guest);
    this.dhcpv6 = new Dhcpv6(config, guest);
  }

  /** Hands the current frame to one of the services, and sends what it answers. */
  serve(service: Service): void {
    const { source, drops } = this.#path;
    const length = source.copyFrame(this.#frame);
    if (length < source.length) {
      drops.malformed++;
      return;
    }
    completeChecksum(this.#frame, length, source.netHeader, 0);
    this.#send(service.respond(this.#frame, length, this.#reply));
  }

  /** Whether routers are, or soon will be, advertised unasked. */
  get advertising(): boolean {
    return this.#advertiseAt !== Infinity;
  }

  /** Has routers advertised unasked from the next turn on. */
  advertise(): void {
    this.#advertiseAt = this.#path.now;
  }

  /**
   * The guest has come from elsewhere: it is told who its gateway is now, but first goes
   * on with what it did. Frames to the old gateway are taken as well.
   */
  announce(): void {
    this.#advertiseAt = this.#announceAt = this.#path.now + ANNOUNCE_MS;
  }

  /** Sends what is due; once in each turn. */
  turn(): void {
    const { now } = this.#path;
    if (now >= this.#advertiseAt) this.#sendAdvertisement();
    if (now >= this.#announceAt && this.#path.receiving) this.#sendAnnouncements();
  }

  /** Router advertisements come unasked, too: the guest's default route has a lifetime. */
  #sendAdvertisement(): void {
    const { config, now, receiving } = this.#path;
    this.#advertiseAt = Infinity; // until the ring is enabled
    if (!config.ndp || !config.ra || config.ip6 === undefined) return;
    if (!receiving) return;
    this.#advertiseAt = now + ADVERTISE_MS;
    this.#send(this.ndp.advertise(this.#reply));
  }

  #sendAnnouncements(): void {
    this.#announceAt = Infinity;
    this.#send(this.arp.announce(this.#reply));
    this.#send(this.ndp.announce(this.#reply));
  }

  /** Sends `length` bytes of the reply buffer, if there are any. */
  #send(length: number): void {
    const { sink, drops } = this.#path;
    if (length > 0 && !sink.send(this.#reply, length)) drops.noBuffer++;
  }

  /** See FlowContext.sendUnreachable(). */
  sendUnreachable(original: DataView, length: number, code: number): boolean {
    const { config, guest, sink } = this.#path;
    const size = unreachable(config, guest, original, length, code, this.#reply);
    return size > 0 && sink.send(this.#reply, size);
  }
}
