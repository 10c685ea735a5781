/** The version, which deno.json has. */
import manifest from "../deno.json" with { type: "json" };

/** What --version says. */
export const VERSION: string = manifest.version;
