/** `@std/assert`, from the npm package deno-std, with types. */
// @ts-types="./assert.d.ts"
export * from "deno-std/assert/mod.js";
