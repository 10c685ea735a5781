/** The version, which deno.json has. */
import manifest from "../deno.json" with { type: "json" };

export const VERSION: string = manifest.version;
