import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../errors.ts";
import { describeRule, parseForwards } from "./ports.ts";

/** Rules of `-t SPEC...` in the form of the summary, weak ones with a question mark. */
function rules(...specs: string[]): string[] {
  const values = specs.map((text) => ({ text, written: `-t '${text}'` }));
  return parseForwards("tcp", values, [32768, 60999])
    .map((rule) => describeRule(rule) + (rule.weak ? " ?" : ""));
}

// The rules of passt (Debian sid, 2026-10) for the same specifications.
const ACCEPTED: [specs: string[], rules: string[]][] = [
  [[], []],
  [["none"], []],
  [["none", "none"], []],
  [["22"], ["[*]:22 => 22"]],
  [["/22"], ["[*]:22 => 22"]],
  [["*/22"], ["[*]:22 => 22"]],
  [["022"], ["[*]:22 => 22"]],
  [["22:23"], ["[*]:22 => 23"]],
  [["22,25"], ["[*]:22 => 22", "[*]:25 => 25"]],
  [["22-80"], ["[*]:22-80 => 22-80"]],
  [["22-80:32-90"], ["[*]:22-80 => 32-90"]],
  [["192.0.2.1/5"], ["[192.0.2.1]:5 => 5"]],
  [["::1/80"], ["[::1]:80 => 80"]],
  [["[::1]/80"], ["[::1]:80 => 80"]],
  [["127.0.0.1%lo/80"], ["[127.0.0.1]%lo:80 => 80"]],
  [["fe80::1%eth0/22"], ["[fe80::1]%eth0:22 => 22"]],
  [["%lo/80"], ["[*]%lo:80 => 80"]],
  [["*%lo/80"], ["[*]%lo:80 => 80"]],
  [["5-25,~10-20"], ["[*]:5-9 => 5-9", "[*]:21-25 => 21-25"]],
  [["5-25:105-125,~10-20"], ["[*]:5-9 => 105-109", "[*]:21-25 => 121-125"]],
  [["all"], ["[*]:1-32767 => 1-32767 ?", "[*]:61000-65535 => 61000-65535 ?"]],
  [["::1/all"], ["[::1]:1-32767 => 1-32767 ?", "[::1]:61000-65535 => 61000-65535 ?"]],
  [["~25"], [
    "[*]:1-24 => 1-24 ?",
    "[*]:26-32767 => 26-32767 ?",
    "[*]:61000-65535 => 61000-65535 ?",
  ]],
  [["all,~80,~65535"], [
    "[*]:1-79 => 1-79 ?",
    "[*]:81-32767 => 81-32767 ?",
    "[*]:61000-65534 => 61000-65534 ?",
  ]],
  [["127.0.0.1/22", "::1/22", "127.0.0.2/22"], [
    "[127.0.0.1]:22 => 22",
    "[::1]:22 => 22",
    "[127.0.0.2]:22 => 22",
  ]],
  [["0.0.0.0/5000:192.0.2.5/6000"], ["[0.0.0.0]:5000 => [192.0.2.5]:6000"]],
  [["::/50-51:2001:db8::5/60-61"], ["[::]:50-51 => [2001:db8::5]:60-61"]],
  [["::1/50:[::7]/60,51:::8"], ["[::1]:50 => [::7]:60", "[::1]:51 => [::8]:51"]],
  [["127.0.0.6/5:192.0.2.6"], ["[127.0.0.6]:5 => [192.0.2.6]:5"]],
];

// What the message must name, besides the option and its value.
const REFUSED: [specs: string[], named: string][] = [
  [[""], "a port is missing"],
  [["abc"], "'abc'"],
  [["0"], "port 0 "],
  [["0-10"], "port 0 "],
  [["65536"], "port 65536"],
  [["99999999999999999999"], "port 99999999999999999999"],
  [["22:0"], "port 0 "],
  [["22:70000"], "port 70000"],
  [["-5"], "a port is missing"],
  [["22-"], "a port is missing"],
  [["22:"], "'' is not a port or an address"],
  [["22:23:24"], "'23:24'"],
  [["22,"], "a port is missing"],
  [[",22"], "a port is missing"],
  [[" 22"], "' 22'"],
  [["+22"], "'+22'"],
  [["0x16"], "'0x16'"],
  [["1-2-3"], "'1-2-3'"],
  [["80-22"], "80-22"],
  [["~80-22"], "80-22"],
  [["22-80:32-91"], "differ in length"],
  [["22:22-23"], "differ in length"],
  [["10-20:1"], "differ in length"],
  [["22,22"], "[*]:22 => 22 overlaps [*]:22 => 22"],
  [["22", "22"], "[*]:22 => 22 overlaps [*]:22 => 22"],
  [["22:23", "22"], "[*]:22 => 22 overlaps [*]:22 => 23"],
  [["10-20,15:16"], "[*]:15 => 16 overlaps [*]:10-20"],
  [["127.0.0.1/22", "22"], "overlaps [127.0.0.1]:22"],
  [["0.0.0.0/22", "127.0.0.1/22"], "overlaps [0.0.0.0]:22"],
  [["%lo/22", "22"], "overlaps [*]%lo:22"],
  [["all", "22"], "[*]:22 => 22 overlaps"],
  [["all,22"], "'all' contradicts"],
  [["all,all"], "'all' is given twice"],
  [["22", "none"], "'none' contradicts"],
  [["none", "22"], "'none' before it"],
  [["none,22"], "'none'"],
  [["22,~22"], "every port is left out"],
  [["10-20,~15,~15"], "'~15'"],
  [["1.2.3/22"], "'1.2.3' is not an address"],
  [["localhost/22"], "'localhost' is not an address"],
  [["[127.0.0.1]/22"], "'[127.0.0.1]' is not an address"],
  [["127.0.0.1%/22"], "names no interface"],
  [["%a%b/22"], "names no interface"],
  [["%sixteencharslong/22"], "names no interface"],
  [["127.0.0.1/22,::1/23"], "a port is missing"],
  [["22%lo"], "'22%lo'"],
  [["auto"], "'auto'"],
  [["22:192.0.2.5/23"], "0.0.0.0/22"],
  [["22:::1/23"], "::/22"],
  [["127.0.0.1/22:::1/23"], "IPv6"],
  [["0.0.0.0/22:0.0.0.0/23"], "'0.0.0.0'"],
];

Deno.test("port specifications mean what they mean to passt", () => {
  for (const [specs, expected] of ACCEPTED) {
    assertEquals(rules(...specs), expected, specs.join(" "));
  }
});

Deno.test("a wrong port specification is refused by name", () => {
  for (const [specs, named] of REFUSED) {
    const error = assertThrows(() => rules(...specs), UsageError, named, specs.join(" "));
    assertEquals(error.message.startsWith(`-t '${specs.at(-1)}': `), true, error.message);
  }
});

Deno.test("interfaces of different names don't overlap", () => {
  assertEquals(rules("%lo/22", "%eth0/22").length, 2);
});

Deno.test("'all' follows the host's ephemeral ports", () => {
  const all = (first: number, last: number) =>
    parseForwards("udp", [{ text: "all", written: "" }], [first, last])
      .map(({ protocol, first, last }) => `${protocol} ${first}-${last}`);
  assertEquals(all(1024, 65535), ["udp 1-1023"]);
  assertEquals(all(1, 100), ["udp 101-65535"]);
});
