/** vuelo, in which the first call of a function fails: its name and the error's number. */
import { Injector } from "./injector.ts";

const [wanted, number] = (Deno.env.get("VUELO_FAULT") ?? "").split(" ");
const injector = Injector.install();
let failed = false;
injector.armed = true;
injector.decide = (name) => {
  if (failed || name !== wanted) return undefined;
  failed = true;
  return Number(number);
};
await import("../../main.ts");
