/**
 * Everything that moves with a guest, whatever the format of the stream that carries it:
 * writers take it, readers give it. All of it is plain data in this host's byte order.
 */
import type { ForwardRule } from "../../config.ts";

/** What is moved; indexes called `flow` count entries of {@link entries}. */
export interface MovedState {
  readonly device: MovedDevice;
  /**
   * Entries of the flow table, 32 words each, as flow_entry.ts lays them. Descriptors in
   * them are -1.
   */
  readonly entries: Int32Array<ArrayBuffer>;
  readonly tcp: readonly MovedTcp[];
  readonly udp: readonly MovedDatagramFlow[];
  readonly ping: readonly MovedDatagramFlow[];
  readonly rules: readonly MovedRule[];
}

/** The device and its guest. Addresses are 16 bytes, IPv4 mapped. */
export interface MovedDevice {
  /** The guest's MAC address, ff:ff:ff:ff:ff:ff if it never sent anything. */
  readonly mac: Uint8Array;
  /** Last source addresses seen of the guest; unspecified (0) if none was. */
  readonly address4: Uint8Array;
  readonly address6: Uint8Array;
  readonly linkLocal6: Uint8Array;
  /** MTU the guest was told, 0 if none or not known (passt's format). */
  readonly mtu: number;
  /** Virtio features that the driver accepted, both words 0 if not known. */
  readonly featuresLo: number;
  readonly featuresHi: number;
  /** Addresses that the guest was given (its lease), with prefix lengths; 0 if none. */
  readonly lease4: Uint8Array;
  readonly lease4Prefix: number;
  readonly lease6: Uint8Array;
  readonly lease6Prefix: number;
  /** MAC address the guest knows its gateway by; 6 bytes, 0 if not known. */
  readonly ourMac: Uint8Array;
  /** When the state was saved: seconds since 1970 of the source's clock (time_t). */
  readonly savedAt: number;
}

/**
 * A TCP connection: the socket on the host side. Sequence numbers are unsigned 32 bits.
 * A FIN is in neither queue; whether it was sent, received or acknowledged, `state` tells.
 */
export interface MovedTcp {
  readonly flow: number;
  /** Why the source could not save it; "" if all below is valid. */
  readonly lost: string;
  /** Linux's TCP state of the socket (tcpi_state): 1, 4, 5, 7, 8, 9, 11. */
  readonly state: number;
  /** Option bits of TCP_INFO: 1 timestamps, 2 SACK, 4 window scale. */
  readonly options: number;
  /** Window scales: of the peer's window, and of ours. */
  readonly sendScale: number;
  readonly receiveScale: number;
  /**
   * Number of the first byte the peer has not acknowledged: the first of
   * {@link sendQueue} if there is one, else that of our FIN if that was sent and is
   * unacknowledged, else the next one to use (after our FIN where that is acknowledged).
   */
  readonly sendSequence: number;
  /**
   * Number of the first byte not dropped from the socket, the first of
   * {@link receiveQueue}; without such bytes the next one expected, the peer's FIN not
   * counted even if it came.
   */
  readonly receiveSequence: number;
  /** Bytes at the end of {@link sendQueue} that never were on the wire. */
  readonly notSent: number;
  /**
   * The source did not keep the kernel from sending them afterwards, as passt does not:
   * the peer may have some, and its acknowledgements of them must not look wrong.
   */
  readonly sendsOn?: boolean;
  /** TCP_MAXSEG as read in repair mode (the clamp). */
  readonly mss: number;
  /** TCP_TIMESTAMP, 0 if timestamps are off. */
  readonly timestamp: number;
  /** TCP_REPAIR_WINDOW as the kernel gave it, the peer's FIN not corrected for. */
  readonly sndWl1: number;
  readonly sndWnd: number;
  readonly maxWindow: number;
  readonly rcvWnd: number;
  readonly rcvWup: number;
  /** Keep-alive of the socket: 0 if off, else seconds until the first probe. */
  readonly keepIdle: number;
  readonly keepInterval: number;
  readonly keepCount: number;
  /** Interface the socket was bound to, "" if none. */
  readonly device: string;
  /** Milliseconds since something was heard of the guest. */
  readonly idle: number;
  /** Of a loss on the guest's link that is being repaired: see TcpShared. */
  readonly gap: number;
  readonly gapEnd: number;
  readonly recover: number;
  readonly sendQueue: Uint8Array;
  readonly receiveQueue: Uint8Array;
}

/** A UDP or ping flow; what its socket needs is in the entry. */
export interface MovedDatagramFlow {
  readonly flow: number;
  /** Milliseconds since its last packet. */
  readonly idle: number;
}

/** A forwarding rule in force. */
export type MovedRule = ForwardRule;
