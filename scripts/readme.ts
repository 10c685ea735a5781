/** Writes the options into README.md, from the table that --help comes from. */
import { helpText } from "../src/cli/help.ts";

const PATH = new URL("../README.md", import.meta.url);
const BETWEEN = /(<!-- options -->\n)[^]*(<!-- \/options -->)/;

/** README.md with the options as they are now. */
export function updated(readme: string): string {
  const help = helpText().split("\n\n").slice(2).join("\n\n").trimEnd();
  const block = help.split("\n").map((line) => `    ${line}`.trimEnd()).join("\n");
  return readme.replace(BETWEEN, (_, start, end) => `${start}\n${block}\n\n${end}`);
}

if (import.meta.main) {
  await Deno.writeTextFile(PATH, updated(await Deno.readTextFile(PATH)));
}
