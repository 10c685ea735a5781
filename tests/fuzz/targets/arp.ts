/** ARP requests (src/services/arp.ts), and what is learnt of a frame. */
import { Arp } from "../../../src/services/arp.ts";
import { GuestState } from "../../../src/services/guest_state.ts";
import { serviceConfig } from "../../support/service_config.ts";
import type { Target } from "../engine/target.ts";
import { answer, NEIGHBOUR_SEEDS } from "../frames.ts";

const config = serviceConfig();
const guest = new GuestState(config);
const arp = new Arp(config, guest);

const target: Target = {
  maxLength: 128,
  seeds: NEIGHBOUR_SEEDS,
  run(input) {
    guest.reset();
    answer((frame, length, reply) => {
      guest.learn(frame, length);
      return arp.respond(frame, length, reply);
    }, input);
    // What goes by those addresses must be that of a host.
    if (guest.mac[0] & 1 && guest.mac[0] !== 0xff) throw new Error("a group is learnt");
    if (guest.address4[12] === 127) throw new Error("a loopback address is learnt");
  },
};
export default target;
