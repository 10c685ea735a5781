/** A program for the peer's namespace: sends back what comes, and closes after the peer. */
const listener = Deno.listen({ hostname: "::", port: 0 });
console.log(`port ${listener.addr.port}`);
for await (const connection of listener) {
  connection.readable.pipeTo(connection.writable).catch(() => {});
}
