/* A run's spending over time, with its cap and top-ups; what it is split into stands in a table below. */

import { h, show, table } from "./dom.js";
import { some, usd } from "./format.js";
import { lasting, timeline, zone } from "./timeline.js";

/* Dark enough beside each other and on white; the dashes tell lines apart without their colours. */
export const COLOURS = ["#1f5f99", "#a34700", "#1f7a4d", "#7a3e9d", "#8a6d00", "#b0285f", "#3d6b6b", "#5c5c5c", "#704214"];
const DASHES = [[], [8, 4], [2, 3], [12, 3, 2, 3]];
const HEIGHT = 280;
/* What stays free at both sides, of the width of the time; pixels that a written moment takes, and that half of one
   may stand out at the right; rows of labels. */
const PAD = 0.03, TICK = 84, OUT = 36, ROWS = 4;
/* Pixels of the amounts' axis. */
const AMOUNTS = 80;

let loading;

/** Load the plotting library, which luigid serves, when it is first needed. */
export function uPlot() {
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

/** Return all moments at which something is drawn, in milliseconds, sorted; the first cap is the run's beginning. */
function moments(spending) {
  const times = [...spending.times, ...spending.caps.slice(1).map((cap) => cap.at)];
  return [...new Set(times)].filter((at) => at >= spending.times[0]).sort((a, b) => a - b);
}

/** Return columns for uPlot: all places, then a line for the total, each part and the cap. */
function columns(spending, line) {
  const times = moments(spending);
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
    // What it was opened with is written down a moment later.
    const until = spending.caps.filter((one) => one.at <= time).at(-1) ?? spending.caps[0];
    return until ? Number(until.cap_usd) : null;
  });
  const lines = [...(parts.length === 1 ? [] : [total]), ...parts, cap];
  // What was spent last stays spent: the lines go on to the edge.
  lines.forEach((one) => one.push(one.at(-1)));
  return [[...times.map(line.place), 1 + PAD / 2], ...lines];
}

/** Return what the plot shows, in words. */
function words(spending) {
  const first = spending.caps[0], last = spending.caps.at(-1);
  const raised = spending.caps.filter((cap) => cap.top_up);
  const parts = spending.spent_usd.map((one) => `${one.name ?? "others"} ${usd(one.until.at(-1))}`);
  return `Spent over time: ${parts.join(", ") || "nothing yet"}. Cap ${usd(last ? last.cap_usd : "0")}` +
    (raised.length ? `, opened with ${usd(first.cap_usd)} and topped up ${raised.length} times` : "") + ".";
}

/** Return what a line's value is at a point; where nothing is pointed at, its last. */
const shown = (plot, value, number, point) =>
  point === null || point === undefined ? plot.data[number].at(-1) : value;

function options(Plot, spending, line, width) {
  const money = (value) => value === null || value === undefined ? "" : usd(String(Number(value.toFixed(6))));
  const first = spending.times[0];
  // By the plot's own width: when it is drawn first, its parts have none yet.
  const labels = (plot) => line.labels(TICK / Math.max(1, plot.width - AMOUNTS - OUT));
  const drawn = (label, stroke, more) => ({ label, stroke, width: 2, points: { show: false },
    paths: Plot.paths.stepped({ align: 1 }), value: (...at) => money(shown(...at)), ...more });
  const moment = (plot, place, number, point) => {
    const at = line.moment(shown(plot, place, number, point));
    return new Date(Math.min(at, moments(spending).at(-1))).toLocaleString("en-US", { timeZoneName: "short" });
  };
  return {
    width, height: HEIGHT, padding: [null, OUT, null, null], legend: { live: true }, cursor: { drag: { x: false, y: false } },
    axes: [
      { label: `time (${zone(first)})`, labelSize: 18, size: 48,
        splits: (plot) => labels(plot).map((one) => one.place), values: (plot) => labels(plot).map((one) => one.text) },
      { values: (_, ticks) => ticks.map(money), size: AMOUNTS },
    ],
    scales: { x: { time: false, range: [-PAD, 1 + PAD] }, y: { range: (_, low, high) => [0, (high || 1) * 1.25] } },
    series: [
      { label: "until", value: moment },
      ...(spending.spent_usd.length === 1 ? [] : [drawn("total", "#222222", { width: 3 })]),
      ...spending.spent_usd.map((one, number) => drawn(one.name === "" ? "no task" : one.name ?? "others",
        COLOURS[number % COLOURS.length], { dash: DASHES[number % DASHES.length] })),
      drawn("cap", "#c0392b", { dash: [4, 4] }),
    ],
    hooks: { drawClear: [(plot) => idle(plot, line)], draw: [(plot) => marks(plot, spending, line)] },
  };
}

/** Shade the idle times, which are cut short, and say how long each was, where that has room. */
function idle(plot, line) {
  const { ctx, bbox } = plot, width = plot.over.clientWidth;
  plot.over.querySelectorAll(".spendguard-idle, .spendguard-lasting").forEach((one) => one.remove());
  ctx.save();
  ctx.fillStyle = "#eeeeee";
  let taken = 0;
  for (const piece of line.idle) {
    const from = plot.valToPos(piece.x, "x", true), to = plot.valToPos(piece.x + piece.width, "x", true);
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
    const long = lasting(piece.to - piece.from), left = plot.valToPos(piece.x, "x");
    const wide = plot.valToPos(piece.x + piece.width, "x") - left;
    const band = h("div", { class: "spendguard-idle", title: `nothing was called for ${long}` });
    band.style.left = `${left}px`;
    band.style.width = `${wide}px`;
    const text = h("div", { class: "spendguard-lasting" }, long);
    plot.over.append(band, text);
    // A narrow band's text goes beyond it, but neither out of the plot nor over the one before.
    const start = Math.max(0, Math.min(width - text.offsetWidth, left + (wide - text.offsetWidth) / 2));
    if (start < taken) {
      text.remove();
      continue;
    }
    text.style.left = `${start}px`;
    taken = start + text.offsetWidth + 4;
  }
  ctx.restore();
}

/** Mark top-ups by lines from top to bottom, each with what it came to beside it, inside the plot. */
function marks(plot, spending, line) {
  const { ctx, bbox } = plot, width = plot.over.clientWidth;
  plot.over.querySelectorAll(".spendguard-mark").forEach((one) => one.remove());
  ctx.save();
  ctx.strokeStyle = "#c0392b";
  ctx.setLineDash([2, 4]);
  const taken = [];  // Of each row of labels, where its last one ends.
  for (const cap of spending.caps.filter((one) => one.top_up)) {
    const place = line.place(cap.at), x = plot.valToPos(place, "x", true), left = plot.valToPos(place, "x");
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const label = h("div", { class: "spendguard-mark" }, `top-up to ${usd(cap.cap_usd)}`);
    plot.over.append(label);
    const wide = label.offsetWidth, start = Math.max(0, left + 4 + wide > width ? left - 4 - wide : left + 4);
    const row = [...taken, -Infinity].findIndex((end) => end <= start);
    if (row >= ROWS) {
      label.remove();  // Its line stays; the journal beside the plot names each.
      continue;
    }
    taken[row] = start + wide + 4;
    label.style.left = `${start}px`;
    label.style.top = `${2 + row * label.offsetHeight}px`;
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
    const line = timeline(moments(spending));
    plot?.destroy();
    canvas.replaceChildren();
    plot = new Plot(options(Plot, spending, line, canvas.clientWidth - 2 || 800), columns(spending, line), canvas);
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
