/* A run's spending over time, with its cap and top-ups; what it is split into stands in a table below. */

import { h, show, table } from "./dom.js";
import { some, usd } from "./format.js";

/* Dark enough beside each other and on white; the dashes tell lines apart without their colours. */
const COLOURS = ["#1f5f99", "#a34700", "#1f7a4d", "#7a3e9d", "#8a6d00", "#b0285f", "#3d6b6b", "#5c5c5c", "#704214"];
const DASHES = [[], [8, 4], [2, 3], [12, 3, 2, 3]];
const HEIGHT = 240;

let loading;

/** Load the plotting library, which luigid serves, when it is first needed. */
function uPlot() {
  loading ||= new Promise((resolve, reject) => {
    const base = new URL("uplot/", import.meta.url);
    const style = h("link", { rel: "stylesheet" }), script = h("script");
    style.href = new URL("uPlot.min.css", base).href;
    script.src = new URL("uPlot.iife.min.js", base).href;
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => {
      loading = undefined;
      reject(new Error("the plotting library cannot be loaded"));
    };
    document.head.append(style, script);
  });
  return loading;
}

/** Return columns for uPlot: all times, then a line for the total, each part and the cap. */
function columns(spending) {
  const last = spending.times.at(-1);
  const times = [...new Set([...spending.times, ...spending.caps.flatMap((cap) => [cap.at - 1, cap.at])])]
    .filter((at) => at >= spending.times[0]).sort((a, b) => a - b);
  const at = (amounts) => {
    let place = 0;
    return times.map((time) => {
      while (place + 1 < spending.times.length && spending.times[place + 1] <= time) {
        place += 1;
      }
      return Number(amounts[place]);
    });
  };
  const parts = spending.spent_usd.map((one) => at(one.until));
  const total = times.map((_, place) => parts.reduce((sum, part) => sum + part[place], 0));
  const cap = times.map((time) => {
    const until = spending.caps.filter((one) => one.at <= time).at(-1);
    return until ? Number(until.cap_usd) : null;
  });
  if (times.length === 1) {
    times.push(last + 1000);
    [total, cap, ...parts].forEach((line) => line.push(line[0]));
  }
  return [times.map((time) => time / 1000), ...(parts.length === 1 ? [] : [total]), ...parts, cap];
}

/** Return what the plot shows, in words. */
function words(spending) {
  const first = spending.caps[0], last = spending.caps.at(-1);
  const raised = spending.caps.filter((cap) => cap.top_up);
  const parts = spending.spent_usd.map((one) => `${one.name ?? "others"} ${usd(one.until.at(-1))}`);
  return `Spent over time: ${parts.join(", ") || "nothing yet"}. Cap ${usd(last ? last.cap_usd : "0")}` +
    (raised.length ? `, opened with ${usd(first.cap_usd)} and topped up ${raised.length} times` : "") + ".";
}

function options(Plot, spending, width) {
  const money = (value) => value === null || value === undefined ? "" : `$${value.toLocaleString("en-US", { maximumFractionDigits: 6 })}`;
  const line = (label, stroke, more) => ({ label, stroke, width: 2, points: { show: false },
    paths: Plot.paths.stepped({ align: 1 }), value: (_, value) => money(value), ...more });
  return {
    width, height: HEIGHT, legend: { live: true }, cursor: { drag: { x: true, y: false } },
    axes: [{}, { values: (_, ticks) => ticks.map(money), size: 80 }],
    scales: { y: { range: (_, low, high) => [0, (high || 1) * 1.08] } },
    series: [
      {}, ...(spending.spent_usd.length === 1 ? [] : [line("total", "#222222", { width: 3 })]),
      ...spending.spent_usd.map((one, number) => line(one.name === "" ? "no task" : one.name ?? "others",
        COLOURS[number % COLOURS.length], { dash: DASHES[number % DASHES.length] })),
      line("cap", "#c0392b", { dash: [4, 4] }),
    ],
    hooks: { draw: [(plot) => marks(plot, spending)] },
  };
}

/** Mark top-ups by lines from top to bottom. */
function marks(plot, spending) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = "#c0392b";
  ctx.setLineDash([2, 4]);
  for (const cap of spending.caps.filter((one) => one.top_up)) {
    const x = plot.valToPos(cap.at / 1000, "x", true);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.textAlign = "left";
    ctx.fillText("top-up", x + 4, bbox.top + bbox.height / 2);
  }
  ctx.restore();
}

/** Make plot and table in `place`; returns `refresh(spending)`. */
export function spendingPlot(place) {
  const canvas = h("div", { class: "spendguard-plot", role: "img" }), body = h("div");
  place.append(canvas, body);
  let plot = null, shown = "";
  async function refresh(spending) {
    canvas.setAttribute("aria-label", words(spending));
    show(body, [spending.by, spending.totals], () => totals(spending));
    const seen = JSON.stringify(spending);
    if (seen === shown) {
      return;
    }
    let Plot;
    try {
      Plot = await uPlot();
    } catch (error) {
      canvas.textContent = `There is no plot: ${error.message}. The table has its figures.`;
      return;
    }
    const lines = JSON.stringify(spending.spent_usd.map((one) => one.name));
    if (plot && plot.spendguardLines === lines && plot.spendguardCaps === spending.caps.length) {
      plot.setData(columns(spending));
    } else {
      plot?.destroy();
      canvas.replaceChildren();
      plot = new Plot(options(Plot, spending, canvas.clientWidth - 2 || 800), columns(spending), canvas);
      plot.spendguardLines = lines;
      plot.spendguardCaps = spending.caps.length;
    }
    shown = seen;
  }
  // Also when the page is shown at last: while it is hidden it has no width.
  new ResizeObserver(() => plot && canvas.clientWidth &&
    plot.setSize({ width: canvas.clientWidth - 2, height: HEIGHT })).observe(canvas);
  return refresh;
}

function totals(spending) {
  const of = spending.by === "vendor" ? "Vendor" : "Task family";
  return table(`Spent by ${of.toLowerCase()}`, [of, "Spent", "Reserved", "Calls", "Denied"],
    h("tbody", null, spending.totals.map((one) => h("tr", null,
      h("th", { scope: "row" }, one.name || "no task"),
      h("td", { class: "text-right spendguard-amount" }, usd(one.spent_usd)),
      h("td", { class: "text-right spendguard-amount" }, some(one.reserved_usd)),
      h("td", { class: "text-right" }, one.calls.toLocaleString("en-US")),
      h("td", { class: "text-right" }, one.denied_calls || "")))), "spendguard-totals");
}
