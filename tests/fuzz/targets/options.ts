/** Command lines, an argument per line (src/cli/parse_options.ts). */
import { parseOptions } from "../../../src/cli/parse_options.ts";
import { UsageError } from "../../../src/errors.ts";
import type { Target } from "../engine/target.ts";

const LINES = [
  "-s\n/tmp/vm.sock\n--tcp-ports\n2222:22\n--foreground",
  "-1f\n-t22\n--mtu=1500\n--queues\n4",
  "--\n-x\n--no-such=1",
];

const target: Target = {
  maxLength: 300,
  seeds: LINES.map((line) => new TextEncoder().encode(line)),
  run(input) {
    try {
      parseOptions(new TextDecoder().decode(input).split("\n"));
    } catch (error) {
      if (!(error instanceof UsageError)) throw error;
      if (error.message.includes("\n")) throw new Error("a refusal of several lines");
    }
  },
};
export default target;
