/** vuelo, with every address that it hands to libc checked; what tests run with it. */
import { FOLDER, install } from "./install.ts";

const folder = Deno.env.get(FOLDER);
if (folder === undefined) throw new Error(`${FOLDER} names no folder for the results`);
await install(folder);
await import("../../main.ts");
