/** Words, states and flags of a TCP flow's entry; what they mean, src/flow/tcp says. */
import { FlowWord } from "./flow_entry.ts";

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
