/** `@std/bytes`, from the npm package deno-std, with types. */
// @ts-types="./bytes.d.ts"
export * from "deno-std/bytes/mod.js";
