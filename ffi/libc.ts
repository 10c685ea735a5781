/**
 * The only `Deno.dlopen` of the project: every table of C prototypes in this folder
 * goes through {@link libc}, so that a test can put itself between vuelo and libc.
 *
 * How prototypes are written here, and why:
 * - A constant address that the kernel reads or fills is a `"pointer"`: passing one
 *   costs as little as an integer. `"usize"` with a JavaScript number takes V8's slow
 *   way (about 130 ns), so lengths are `"u32"` wherever they fit.
 * - `ssize_t` results are declared `"i32"`: no call of ours moves 2 GiB, and 64-bit
 *   results would come back as BigInt.
 */

/** A library's functions, typed by their table. */
export type Functions<T extends Deno.ForeignLibraryInterface> =
  Deno.StaticForeignLibraryInterface<T>;

/**
 * Binds a table of C prototypes to the C library of the process.
 *
 * @throws {Error} if libc lacks one of the functions (glibc 2.34 has all of them).
 */
export function libc<const T extends Deno.ForeignLibraryInterface>(
  table: T,
): Functions<T> {
  return Deno.dlopen("libc.so.6", table).symbols;
}
