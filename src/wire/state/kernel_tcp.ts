/** States of a connection in Linux (net/tcp_states.h, tcpi_state), which a stream carries. */
export const KernelState = {
  established: 1,
  finWait1: 4,
  finWait2: 5,
  close: 7,
  closeWait: 8,
  lastAck: 9,
  closing: 11,
} as const;

/** Our FIN is sent and not acknowledged: the kernel counts it as a byte of the queue. */
export function finIsOut(state: number): boolean {
  return state === KernelState.finWait1 || state === KernelState.lastAck ||
    state === KernelState.closing;
}

/** The peer's FIN has come, and is counted in the kernel's numbers. */
export function peerHasClosed(state: number): boolean {
  return state === KernelState.closeWait || state === KernelState.lastAck ||
    state === KernelState.closing || state === KernelState.close;
}
