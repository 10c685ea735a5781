/** Neighbour and router solicitations (src/wire/ndp.ts, src/services/ndp.ts). */
import { GuestState } from "../../../src/services/guest_state.ts";
import { Ndp } from "../../../src/services/ndp.ts";
import { serviceConfig } from "../../support/service_config.ts";
import type { Target } from "../engine/target.ts";
import { answer, NEIGHBOUR_SEEDS } from "../frames.ts";

const config = serviceConfig();
const guest = new GuestState(config);
const ndp = new Ndp(config, guest);

const target: Target = {
  maxLength: 400,
  seeds: NEIGHBOUR_SEEDS,
  run(input) {
    guest.reset();
    answer((frame, length, reply) => {
      guest.learn(frame, length);
      return ndp.respond(frame, length, reply);
    }, input);
  },
};
export default target;
