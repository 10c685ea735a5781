/**
 * A program for the host's namespace: a guest with the host's addresses comes there from
 * elsewhere, and runs.
 */
import { Forwarder } from "../../src/flow/forward.ts";
import { GuestMove } from "../../src/migrate/guest_move.ts";
import { emptyState } from "./fake_movable.ts";
import { ip, IP4, IP6 } from "./flow_config.ts";
import { FlowWorld } from "./flow_world.ts";
import { IPV4, IPV6 } from "./netns.ts";

const config = {
  ip4: { ...IP4, address: ip(IPV4.host), gateway: ip(IPV4.gateway) },
  ip6: { ...IP6, address: ip(IPV6.host), gateway: ip(IPV6.gateway) },
};
const { path } = new FlowWorld({ config });
const facts = { featuresLo: 0, featuresHi: 1 };
const move = new GuestMove(path, new Forwarder(path), () => facts);
const number = move.restore(emptyState(1)) || move.thaw();
Deno.exit(number === 0 ? 0 : 1);
