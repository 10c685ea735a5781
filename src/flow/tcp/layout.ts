/**
 * How a TCP flow lies in its table entry, and what its states and flags mean.
 *
 * vuelo has no TCP stack of its own. It stands between the guest's TCP and the host
 * kernel's, and shows each what the other does:
 *
 *     guest TCP  <- segments -> [ entry ] <- system calls ->  host kernel's TCP  <- peer
 *
 * - Bytes for the guest stay in the socket until the guest has acknowledged them: they
 *   are read with MSG_PEEK, and dropped (MSG_TRUNC) when the acknowledgement comes.
 *   To send again is to move the peek offset back.
 * - Bytes from the guest are acknowledged when the peer has acknowledged them to the
 *   host's kernel (SIOCOUTQ); what the socket does not take, the guest sends again.
 */
import { FlowWord } from "../table.ts";

/** Words of an entry; sequence numbers are 32 bits that wrap (RFC 9293, section 3.4). */
export const TcpWord = {
  /** Next sequence number to send to the guest, and the highest one ever sent + 1. */
  seqToGuest: FlowWord.own,
  seqMax: FlowWord.own + 1,
  /** Highest acknowledgement from the guest. */
  ackFromGuest: FlowWord.own + 2,
  /** Next sequence number expected of the guest. */
  seqFromGuest: FlowWord.own + 3,
  /** Acknowledgement last sent to the guest. */
  ackToGuest: FlowWord.own + 4,
  /** The guest's initial sequence number. */
  isnFromGuest: FlowWord.own + 5,
  /** Windows as in the headers: last from the guest in bits 0-15, to it in 16-31. */
  windows: FlowWord.own + 6,
  /** Window scale from the guest in bits 0-7, to it in 8-15, retries 16-23. */
  counts: FlowWord.own + 7,
  /** Payload bytes per segment towards the guest. */
  mss: FlowWord.own + 8,
  /** Scope (interface index) of a link-local peer. */
  scope: FlowWord.own + 9,
} as const;

/** States, in bits 8-15 of the entry's first word. */
export const TcpState = {
  /** The guest's SYN came; connect() is under way. */
  connecting: 1,
  /** The peer accepted; SYN and ACK went to the guest. */
  synAckSent: 2,
  /** A peer's connection was accepted; SYN went to the guest. */
  synSent: 3,
  established: 4,
} as const;

/** Flags, in bits 16-31 of the entry's first word. */
export const TcpFlow = {
  /** The peer's FIN was seen: nothing comes after what is in the socket. */
  peerFin: 1 << 16,
  /** FIN is among what was sent to the guest, and not taken back by a rewind. */
  finToGuest: 1 << 17,
  finToGuestAcked: 1 << 18,
  /** The guest's FIN is in; the socket is shut down for writing. */
  guestFin: 1 << 19,
  /** An acknowledgement is owed to the guest. */
  ackDue: 1 << 20,
  /** The socket may hold more than was sent to the guest. */
  readable: 1 << 21,
  /** The socket took less than the guest sent: the guest must send again. */
  blocked: 1 << 22,
  /** The peer opened the connection. */
  inbound: 1 << 23,
  /** The guest probes its peer: so does the host's kernel. */
  keepAlive: 1 << 24,
  /** The socket failed: RST goes to the guest once all data is out. */
  failed: 1 << 25,
  /** Data from the guest waits for the peer's acknowledgement. */
  unacknowledged: 1 << 26,
  /** FIN was sent to the guest at least once: seqMax counts it. */
  finSent: 1 << 27,
  /** The kernel was asked to tell when the send buffer has space. */
  watching: 1 << 28,
  /** The send buffer was made larger than the kernel made it. */
  grown: 1 << 29,
  /** The guest's window shrank below what was under way. */
  shrunk: 1 << 30,
  /** Something is sent again: duplicate acknowledgements mean nothing until it is in. */
  recovering: 1 << 31,
} as const;

/** Window scale announced to the guest: windows up to 16 MiB in steps of 256 bytes. */
export const OUR_WINDOW_SCALE = 8;

/**
 * First retransmission time-outs towards the guest (RFC 6298). The guest is microseconds
 * away, so that of data is below the second that is right for the internet.
 */
export const RTO_SYN_MS = 1000;
export const RTO_FIRST_MS = 250;
export const RTO_LONGEST_MS = 64_000;
/** 0.25 + 0.5 + ... + 64 + 64 s: more than the 100 s of RFC 1122, section 4.2.3.5. */
export const RTO_RETRIES = 9;
export const SYN_RETRIES = 6;
/** Without anything heard from the guest for so long, it is probed (RFC 1122, 4.2.3.6). */
export const IDLE_MS = 7_200_000;
export const PROBE_MS = 75_000;
export const PROBES = 9;
