/** Comparisons as text for the terminal, and as Markdown. */
import { FIGURES, type Sample } from "../net/results.ts";
import { type Row, rowsOf, type Spread } from "./ratio.ts";

/** A number with about three digits that mean something. */
export function digits(value: number): string {
  const size = Math.abs(value);
  if (size >= 100) return Math.round(value).toLocaleString("en-US");
  if (size >= 10) return value.toFixed(1);
  return value.toFixed(size >= 1 || size === 0 ? 2 : 3);
}

function cell(value: Spread | undefined): string {
  if (value === undefined) return "-";
  const { median, least, most } = value;
  if (least === most) return digits(median);
  return `${digits(median)} (${digits(least)} to ${digits(most)})`;
}

function cellOf({ byBackend, errors }: Row, backend: string): string {
  const value = byBackend.get(backend);
  return value === undefined && errors.has(backend) ? "failed" : cell(value);
}

interface Section {
  readonly title: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** What failed, in words. */
  readonly notes: readonly string[];
}

/** A section for each frontend and MTU. */
export function sections(
  samples: readonly Sample[],
  backends: readonly string[],
): Section[] {
  const groups = Map.groupBy(
    rowsOf(samples, backends),
    ({ level, frontend, mtu }) => `${level}: ${frontend}, MTU ${mtu}`,
  );
  const compared = backends.length > 1 ? [`${backends[0]} / ${backends[1]}`] : [];
  const head = ["case", "figure", ...backends, ...compared];
  return [...groups].map(([title, rows]) => ({
    title,
    head,
    rows: rows.map((row) => [
      row.name,
      `${row.figure}, ${FIGURES[row.figure].unit}`,
      ...backends.map((backend) => cellOf(row, backend)),
      ...(compared.length > 0 ? [cell(row.ratio)] : []),
    ]),
    notes: [
      ...new Set(
        rows.flatMap(({ name, errors }) =>
          [...errors].map(([backend, text]) => `${name}: ${backend}: ${text}`)
        ),
      ),
    ],
  }));
}

/** Columns aligned with blanks. */
export function asText({ title, head, rows, notes }: Section): string {
  const all = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...all.map((cells) => cells[i].length)));
  const lines = all.map((cells) =>
    cells.map((text, i) => text.padEnd(widths[i])).join("  ").trimEnd()
  );
  return [title, "", ...lines, ...notes, ""].join("\n");
}

export function asMarkdown({ title, head, rows, notes }: Section): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [
    `### ${title}`,
    "",
    line(head),
    line(head.map(() => "---")),
    ...rows.map(line),
    "",
    ...notes.map((note) => `- ${note.replaceAll("\n", " ")}`),
    ...(notes.length > 0 ? [""] : []),
  ].join("\n");
}
