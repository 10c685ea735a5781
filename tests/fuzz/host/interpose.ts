/**
 * Puts a made-up host between the code and libc, and the check of addresses before that.
 * As long as no target asks for them, calls go through.
 */
import { interpose } from "../../../ffi/libc.ts";
import { Checker } from "../../ffi_check/checker.ts";
import { Registry, REGISTRY_SIZE } from "../../ffi_check/regions.ts";
import { MadeUpHost } from "./made_up.ts";

/** Calls that are checked at any time: they say what memory there is. */
const MAPPING = ["mmap", "munmap"];

export const checker: Checker = new Checker(
  new Registry(new ArrayBuffer(REGISTRY_SIZE)),
  (text) => {
    throw new Error(`address outside: ${text}`);
  },
);
export const host: MadeUpHost = new MadeUpHost(checker.registry);

interpose((name, call) => {
  if (name === "__errno_location") return host.wrapErrno(call);
  const made = host.wrap(name, call);
  if (made === call && !MAPPING.includes(name)) return call;
  const checked = checker.wrap(name, made);
  if (MAPPING.includes(name)) return checked;
  return (...args) => host.active ? checked(...args) : call(...args);
});
