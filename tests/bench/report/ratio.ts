/** What samples of several rounds come to: medians with their spread, and ratios. */
import { type Figure, FIGURES, type Sample } from "../net/results.ts";

export interface Spread {
  readonly median: number;
  readonly least: number;
  readonly most: number;
}

/** Of at least one value. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number) => sorted[Math.min(Math.floor(index), sorted.length - 1)];
  const middle = (sorted.length - 1) / 2;
  return {
    median: (at(middle) + at(Math.ceil(middle))) / 2,
    least: sorted[0],
    most: sorted[sorted.length - 1],
  };
}

/** One figure of one case, of all back-ends. */
export interface Row {
  readonly level: string;
  readonly frontend: string;
  readonly mtu: number;
  readonly name: string;
  readonly figure: Figure;
  readonly byBackend: ReadonlyMap<string, Spread>;
  /** The first back-end's figure by the second's, round by round. */
  readonly ratio?: Spread;
  /** By back-end, measurements that failed. */
  readonly errors: ReadonlyMap<string, string>;
}

const keyOf = ({ level, frontend, mtu, name }: Sample) =>
  [level, frontend, mtu, name].join("|");

/** Pairs values of the same round; a round in which one of them is 0 has no ratio. */
function ratios(mine: readonly Sample[], others: readonly Sample[], figure: Figure) {
  return mine.flatMap((sample) => {
    const other = others.find(({ round }) => round === sample.round);
    const [a, b] = [sample.figures[figure], other?.figures[figure]];
    return a !== undefined && b !== undefined && b !== 0 ? [a / b] : [];
  });
}

/** The rows of all samples, in the order in which they came. */
export function rowsOf(samples: readonly Sample[], backends: readonly string[]): Row[] {
  const groups = Map.groupBy(samples, keyOf);
  return [...groups.values()].flatMap((group) => {
    const { level, frontend, mtu, name } = group[0];
    const by = Map.groupBy(group, ({ backend }) => backend);
    const errors = new Map(
      group.filter(({ error }) => error !== undefined).map((s) => [s.backend, s.error!]),
    );
    const names = Object.keys(FIGURES) as Figure[];
    const known = names.filter((figure) => group.some((s) => figure in s.figures));
    // A case that failed everywhere still has a row, which says so.
    if (known.length === 0) known.push("throughput");
    return known.map((figure) => {
      const byBackend = new Map<string, Spread>();
      for (const [backend, own] of by) {
        const values = own.flatMap((s) => s.figures[figure] ?? []);
        if (values.length > 0) byBackend.set(backend, spread(values));
      }
      const [mine, other] = backends.map((backend) => by.get(backend) ?? []);
      const found = other === undefined ? [] : ratios(mine, other, figure);
      const ratio = found.length > 0 ? spread(found) : undefined;
      return { level, frontend, mtu, name, figure, byBackend, ratio, errors };
    });
  });
}
