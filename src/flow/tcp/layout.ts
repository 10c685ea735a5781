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
export { TcpFlow, TcpState, TcpWord } from "../../wire/state/tcp_entry.ts";

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
