/** `vuelo inspect` on damaged streams (src/cli/inspect.ts, src/cli/inspect_report.ts). */
import { formatReport } from "../../../src/cli/inspect.ts";
import { inspect } from "../../../src/cli/inspect_report.ts";
import type { Target } from "../engine/target.ts";
import { STREAM_LENGTH, STREAM_SEEDS, streamOf } from "../streams.ts";

const target: Target = {
  maxLength: STREAM_LENGTH,
  seeds: STREAM_SEEDS,
  run(input) {
    const report = inspect(streamOf(input));
    const text = formatReport(report);
    if (!text.endsWith("\n")) throw new Error("the last line is cut");
    if (report.damage.length > 0 && !text.includes("BROKEN")) {
      throw new Error("damage is not shown");
    }
  },
};
export default target;
