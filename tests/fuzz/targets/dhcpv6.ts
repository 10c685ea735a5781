/** DHCPv6 requests (src/wire/dhcpv6.ts, src/services/dhcpv6.ts). */
import { Dhcpv6 } from "../../../src/services/dhcpv6.ts";
import { GuestState } from "../../../src/services/guest_state.ts";
import { dhcpConfig } from "../../support/dhcp.ts";
import type { Target } from "../engine/target.ts";
import { answer, DHCP_SEEDS } from "../frames.ts";

const config = dhcpConfig();
const guest = new GuestState(config);
const server = new Dhcpv6(config, guest);

const target: Target = {
  maxLength: 1600,
  seeds: DHCP_SEEDS,
  run(input) {
    guest.reset();
    answer(server.respond.bind(server), input);
  },
};
export default target;
