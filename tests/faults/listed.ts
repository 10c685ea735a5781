/** The call sites that docs/security/faults.md says are not reached, and why. */

const PAGE = new URL("../../docs/security/faults.md", import.meta.url);
/** A row of its second table: a file, what is called there, and why that does not fail. */
const ROW = /^\| `([\w/]+\.ts)` *\| ((?:`[\w.]+`(?:, )?)+) *\|/gm;

/** Files, with what they call. */
export function listed(): Map<string, readonly string[]> {
  const text = Deno.readTextFileSync(PAGE);
  return new Map(
    [...text.matchAll(ROW)].map(([, file, calls]) =>
      [file, calls.split(", ").map((name) => name.replaceAll("`", ""))] as const
    ),
  );
}

/** Whether a call site, a file and a line, is one of them. */
export function isListed(rows: ReturnType<typeof listed>, at: string, calls: string) {
  return rows.get(at.replace(/:\d+$/, ""))?.includes(calls) === true;
}
