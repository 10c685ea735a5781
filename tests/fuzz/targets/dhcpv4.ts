/** DHCP and BOOTP requests (src/wire/dhcpv4.ts, src/services/dhcpv4.ts). */
import { Dhcpv4 } from "../../../src/services/dhcpv4.ts";
import { GuestState } from "../../../src/services/guest_state.ts";
import { dhcpConfig } from "../../support/dhcp.ts";
import type { Target } from "../engine/target.ts";
import { answer, DHCP_SEEDS } from "../frames.ts";

const config = dhcpConfig();
const guest = new GuestState(config);
const server = new Dhcpv4(config, guest);

const target: Target = {
  maxLength: 1200,
  seeds: DHCP_SEEDS,
  run(input) {
    guest.reset();
    answer(server.respond.bind(server), input);
  },
};
export default target;
