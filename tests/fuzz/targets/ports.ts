/** The grammar of -t and -u (src/cli/ports.ts). */
import { describeRule, parseForwards } from "../../../src/cli/ports.ts";
import type { ForwardRule } from "../../../src/config.ts";
import { UsageError } from "../../../src/errors.ts";
import type { Target } from "../engine/target.ts";

const EPHEMERAL = [32768, 60999] as const;
const SPECS = [
  "22",
  "2222:22,8000-8010:9000-9010",
  "all,~22,~80-90",
  "none",
  "127.0.0.1%lo/22-23",
  "[::1]/80:[2001:db8::5]/8080",
  "*%eth0/1-65535",
  "192.0.2.1/80:192.0.2.5",
  "all:[2001:db8::5]",
];

function parse(specs: readonly string[]): ForwardRule[] | undefined {
  const values = specs.map((text) => ({ text, written: `-t ${text}` }));
  try {
    return parseForwards("tcp", values, EPHEMERAL);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    if (error.message === "") throw new Error("a refusal without a word");
    return undefined;
  }
}

function check(rules: readonly ForwardRule[]): void {
  const ports = new Set<string>();
  for (const rule of rules) {
    const guestLast = rule.guestFirst + rule.last - rule.first;
    const inside = rule.first >= 1 && rule.first <= rule.last && rule.last <= 65535 &&
      rule.guestFirst >= 1 && guestLast <= 65535;
    if (!inside) throw new Error(`ports outside: ${describeRule(rule)}`);
    const text = describeRule(rule).split("=>")[0];
    if (ports.has(text)) throw new Error(`twice: ${text}`);
    ports.add(text);
  }
}

const target: Target = {
  maxLength: 200,
  seeds: [...SPECS, SPECS.slice(0, 2).join("\n")].map((t) => new TextEncoder().encode(t)),
  dictionary: [..."0 1 22 65535 65536 - : , ~ / % * all none ::1 [ ] . \n".split(" ")]
    .map((text) => new TextEncoder().encode(text)),
  run(input) {
    const specs = new TextDecoder().decode(input).split("\n");
    const rules = parse(specs);
    if (rules !== undefined) check(rules);
  },
};
export default target;
