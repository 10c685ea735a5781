/** `@std/cli`, from the npm package deno-std, with types. */
// @ts-types="./cli.d.ts"
export * from "deno-std/cli/parse_args.js";
