/** Ports of the host for tests to listen on. */

/** First of `count` ports in a row that nobody uses, below those given out to clients. */
export function freePorts(count: number): number {
  for (let tries = 0; tries < 100; tries++) {
    const first = 20_000 + Math.floor(Math.random() * 12_000);
    if (Array.from({ length: count }, (_, i) => first + i).every(isFree)) return first;
  }
  throw new Error(`no ${count} free ports in a row`);
}

/** Whether nobody has a port, in either family. */
export function isFree(port: number): boolean {
  try {
    Deno.listen({ hostname: "::", port }).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) return false;
    throw error;
  }
}
