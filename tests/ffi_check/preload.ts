/** For `deno test --preload`: checks the addresses of the tests' own process. */
import { FOLDER, install } from "./install.ts";

const folder = Deno.env.get(FOLDER);
if (folder !== undefined) await install(folder);
