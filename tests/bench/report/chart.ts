/** Charts as SVG, drawn by ECharts without a browser. */
import * as echarts from "echarts";
import { FIGURES } from "../net/results.ts";
import type { Measured } from "../micro/report.ts";
import type { Row, Spread } from "./ratio.ts";
import { digits } from "./table.ts";

const WIDTH = 980;
const BAR = 13;
const GROUP_GAP = 12;
const TOP = 76;
const BOTTOM = 48;
const COLORS = ["#2563eb", "#9ca3af", "#d97706", "#059669"];
const LABELS_WIDTH = 400;
const RATIOS_WIDTH = 90;
/** From this ratio between the extremes on, an axis is logarithmic. */
const LOGARITHMIC = 200;
const FONT = "sans-serif";

interface Chart {
  readonly title: string;
  readonly unit: string;
  readonly categories: readonly string[];
  /** Said at the right of each category, under a heading. */
  readonly notes?: { readonly heading: string; readonly texts: readonly string[] };
  readonly series: readonly {
    readonly name: string;
    /** One for each category, undefined where there is none. */
    readonly values: readonly (Spread | undefined)[];
    /** Series of one stack are drawn one behind the other. */
    readonly stack?: string;
  }[];
}

function isLogarithmic({ series }: Chart): boolean {
  if (series.some(({ stack }) => stack !== undefined)) return false;
  const medians = series.flatMap(({ values }) =>
    values.flatMap((value) => value === undefined ? [] : [value.median])
  );
  const least = Math.min(...medians);
  return least > 0 && Math.max(...medians) / least > LOGARITHMIC;
}

/** A line from the lowest to the highest value, over each bar. */
function whiskers(
  values: readonly (Spread | undefined)[],
  index: number,
  count: number,
): echarts.CustomSeriesOption {
  return {
    type: "custom",
    silent: true,
    z: 10,
    data: values.flatMap((value, at) =>
      value === undefined ? [] : [[value.least, value.most, at]]
    ),
    encode: { x: [0, 1], y: 2 },
    renderItem: (_params, api) => {
      const [from, y] = api.coord([api.value(0), api.value(2)]);
      const [to] = api.coord([api.value(1), api.value(2)]);
      const middle = y + (index - (count - 1) / 2) * BAR;
      const shape = { x1: from, y1: middle, x2: to, y2: middle };
      return { type: "line", shape, style: { stroke: "#111827", lineWidth: 1.2 } };
    },
  };
}

function option(chart: Chart): echarts.EChartsOption {
  const { title, unit, categories, series, notes } = chart;
  const axis = {
    type: "category",
    inverse: true,
    axisTick: { show: false },
  } as const;
  const stacked = series.some(({ stack }) => stack !== undefined);
  const bars: echarts.SeriesOption[] = series.map((one, index) => ({
    name: one.name,
    type: "bar",
    stack: one.stack,
    barWidth: BAR - 1,
    barGap: "8%",
    itemStyle: { color: COLORS[index % COLORS.length] },
    data: one.values.map((value) => value?.median ?? "-"),
  }));
  const lines = stacked
    ? []
    : series.map(({ values }, i) => whiskers(values, i, series.length));
  return {
    animation: false,
    textStyle: { fontFamily: FONT },
    backgroundColor: "#ffffff",
    title: { text: title, left: 12, top: 8, textStyle: { fontSize: 15 } },
    legend: { top: 36, left: 12, itemGap: 24, data: series.map(({ name }) => name) },
    grid: { left: LABELS_WIDTH, right: RATIOS_WIDTH, top: TOP, bottom: BOTTOM },
    xAxis: {
      type: isLogarithmic(chart) ? "log" : "value",
      name: unit,
      nameLocation: "middle",
      nameGap: 28,
    },
    yAxis: [
      {
        ...axis,
        data: [...categories],
        axisLabel: { interval: 0, fontSize: 11, width: LABELS_WIDTH - 16 },
      },
      {
        ...axis,
        data: [...notes?.texts ?? []],
        axisLine: { show: false },
        axisLabel: { interval: 0, fontSize: 11 },
        name: notes?.heading,
        nameLocation: "start",
        nameTextStyle: { fontSize: 11 },
        nameGap: 8,
      },
    ],
    series: [...bars, ...lines],
  };
}

function render(chart: Chart): string {
  const stacked = chart.series.some(({ stack }) => stack !== undefined);
  const group = (stacked ? 1 : chart.series.length) * BAR + GROUP_GAP;
  const height = TOP + BOTTOM + chart.categories.length * group;
  const canvas = echarts.init(null, null, {
    renderer: "svg",
    ssr: true,
    width: WIDTH,
    height,
  });
  canvas.setOption(option(chart));
  const svg = canvas.renderToSVGString();
  canvas.dispose();
  return svg;
}

/** One figure behind one frontend: a group of bars for each case. */
export function comparisonChart(rows: readonly Row[], backends: readonly string[]) {
  const [{ level, frontend, figure }] = rows;
  const { unit, better } = FIGURES[figure];
  const texts = rows.map(({ ratio }) => ratio === undefined ? "" : digits(ratio.median));
  const heading = `${backends[0]} / ${backends[1]}`;
  return render({
    title: `${level}, ${frontend}: ${figure} (${better} is better)`,
    unit,
    categories: rows.map(({ name, mtu }) => `${name}, MTU ${mtu}`),
    notes: backends.length > 1 ? { heading, texts } : undefined,
    series: backends.map((name) => ({
      name,
      values: rows.map(({ byBackend }) => byBackend.get(name)),
    })),
  });
}

const exactly = (value: number): Spread => ({ median: value, least: value, most: value });

/** What packets cost in level micro: the kernel's part and the rest. */
export function microChart(title: string, results: readonly Measured[]): string {
  const kernel = results.map((r) => Math.min(r.kernelNanoseconds, r.nanoseconds));
  return render({
    title: `micro: CPU time of the data path, ${title} (less is better)`,
    unit: "ns per packet",
    categories: results.map(({ name }) => name),
    series: [
      {
        name: "vuelo itself",
        stack: "time",
        values: results.map((r, i) => exactly(r.nanoseconds - kernel[i])),
      },
      { name: "kernel", stack: "time", values: kernel.map(exactly) },
    ],
  });
}
