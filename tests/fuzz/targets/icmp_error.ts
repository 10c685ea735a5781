/** Errors about a guest's packet (src/services/icmp_error.ts). */
import {
  packetTooBig,
  timeExceeded,
  unreachable,
} from "../../../src/services/icmp_error.ts";
import { GuestState } from "../../../src/services/guest_state.ts";
import { serviceConfig } from "../../support/service_config.ts";
import type { Target } from "../engine/target.ts";
import { answer, WIRE_SEEDS } from "../frames.ts";

const config = serviceConfig();
const guest = new GuestState(config);
/** What the functions ask for. */
const ROOM = 1294;

const target: Target = {
  maxLength: 1800,
  seeds: WIRE_SEEDS,
  run(input) {
    for (const build of [unreachable, timeExceeded, packetTooBig]) {
      const length = answer(
        (frame, length, reply) => build(config, guest, frame, length, 3, reply),
        input,
      );
      if (length > ROOM) throw new Error(`an error of ${length} bytes`);
    }
  },
};
export default target;
