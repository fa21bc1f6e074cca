/* What each day has cost, as stacked bars, with the day's cap and what was denied marked. */

import { h } from "./dom.js";
import { count, usd } from "./format.js";
import { COLOURS, uPlot } from "./plot.js";

const HEIGHT = 320, DAY_MS = 86400000;
/* Pixels: of the amounts' axis, that a day's name takes, and of the mark of a denial. */
const AMOUNTS = 80, TICK = 64, MARK = 7;
const CAP = "#c0392b", DENIED = "#222222";

/** Return what a series is called. */
export const called = (name) => (name === null ? "others" : name === "" ? "no task" : name);

/** Return a colour of its own for each series: behind those that lines have, lighter ones. */
const colour = (number) => COLOURS[number] || `hsl(${(number * 137) % 360} 45% 62%)`;

/** Return every day from the first to the last that something is known of: a day without anything has its place. */
function places(found) {
  const at = (day) => Date.parse(`${day}T00:00:00Z`) / DAY_MS;
  const first = found.days.length ? at(found.days[0]) : 0, known = new Map(found.days.map((day, i) => [at(day) - first, i]));
  const long = found.days.length ? at(found.days.at(-1)) - first + 1 : 0;
  return Array.from({ length: long }, (_, place) => ({
    day: new Date((first + place) * DAY_MS).toISOString().slice(0, 10), known: known.get(place) }));
}

/**
 * Return the heights that bars are drawn up to: each series' with those before it. What was given back on a day goes
 * below zero. The last is drawn first, so that each shows above those before.
 */
export function stacked(series, length) {
  const up = Array(length).fill(0), down = Array(length).fill(0);
  return series.map((amounts) => amounts.map((amount, place) => {
    if (!amount) {
      return null;
    }
    const side = amount > 0 ? up : down;
    side[place] += amount;
    return side[place];
  }));
}

/** Return what the picture shows, in words. */
function words(found) {
  const sum = (one) => one.spent_usd.reduce((all, amount) => all + Number(amount), 0);
  const parts = found.series.slice(0, 5).map((one) => `${called(one.name)} ${money(sum(one))}`);
  const denied = found.denied_calls.reduce((all, calls) => all + calls, 0);
  const over = found.days.filter((_, place) => found.cap_usd[place] !== null &&
    Number(found.total_usd[place]) >= Number(found.cap_usd[place])).length;
  return `Spent per day: ${parts.join(", ") || "nothing"}${found.series.length > 5 ? ", and others" : ""}` +
    `${denied ? `; ${count(denied, "call")} denied` : ""}${over ? `; the day's cap reached on ${count(over, "day")}` : ""}.`;
}

const money = (value) => usd(String(Number(value.toFixed(6))));
const short = (day) => new Date(`${day}T00:00:00Z`).toLocaleDateString("en-US",
  { month: "short", day: "numeric", timeZone: "UTC" });

function options(Plot, found, days, width) {
  const at = (amounts, point) => (point === null || point === undefined || days[point].known === undefined
    ? null : amounts[days[point].known]);
  const series = found.series.map((one, number) => ({
    label: called(one.name), fill: colour(number), stroke: "#ffffff", width: days.length > 90 ? 0 : 1,
    paths: Plot.paths.bars({ size: [0.8, 80] }), points: { show: false },
    value: (_, __, ___, point) => (at(one.spent_usd, point) === null ? "" : usd(at(one.spent_usd, point))),
  })).reverse();
  const nothing = { points: { show: false }, paths: () => null };
  return {
    width, height: HEIGHT, legend: { live: true }, cursor: { drag: { x: false, y: false }, points: { show: false } },
    padding: [14, null, null, null],
    scales: { x: { time: false, range: [-0.6, days.length - 0.4] },
      y: { range: (_, low, high) => [Math.min(0, low || 0) * 1.1, (high || 1) * 1.1] } },
    axes: [
      { splits: (plot) => ticks(days.length, plot.width - AMOUNTS), size: 34,
        values: (_, at) => at.map((place) => short(days[place].day)) },
      { values: (_, at) => at.map(money), size: AMOUNTS },
    ],
    series: [
      { label: "day (UTC)", value: (_, __, ___, point) => (point === null ? "" : days[point].day) },
      ...series,
      { label: "day's cap", stroke: CAP, ...nothing,
        value: (_, __, ___, point) => (at(found.cap_usd, point) === null ? "" : usd(at(found.cap_usd, point))) },
      { label: "denied", stroke: DENIED, scale: "none", ...nothing,
        value: (_, __, ___, point) => at(found.denied_calls, point) || "" },
    ],
    hooks: { draw: [(plot) => marks(plot, found, days)] },
  };
}

/** Return places of days whose names have room beside each other. */
function ticks(length, width) {
  const step = Math.max(1, Math.ceil(length / Math.max(1, Math.floor(width / TICK))));
  return Array.from({ length: Math.ceil(length / step) }, (_, place) => place * step);
}

/** Draw each day's cap across it, and a mark above the days on which something was denied. */
function marks(plot, found, days) {
  const { ctx, bbox } = plot, x = (place) => plot.valToPos(place, "x", true), scale = devicePixelRatio || 1;
  ctx.save();
  ctx.lineWidth = 2 * scale;
  ctx.strokeStyle = CAP;
  ctx.fillStyle = DENIED;
  days.forEach(({ known }, place) => {
    if (known === undefined) {
      return;
    }
    if (found.cap_usd[known] !== null) {
      const y = plot.valToPos(Number(found.cap_usd[known]), "y", true);
      ctx.beginPath();
      ctx.moveTo(x(place - 0.5), y);
      ctx.lineTo(x(place + 0.5), y);
      ctx.stroke();
    }
    if (found.denied_calls[known]) {
      const size = MARK * scale, top = bbox.top - size - 2;
      ctx.beginPath();
      ctx.moveTo(x(place) - size / 2, top);
      ctx.lineTo(x(place) + size / 2, top);
      ctx.lineTo(x(place), top + size);
      ctx.fill();
    }
  });
  ctx.restore();
}

/** Make the picture in `place`; returns `draw(found)`. */
export function daysPicture(place) {
  const canvas = h("div", { class: "spendguard-plot spendguard-days", role: "img" });
  place.append(canvas);
  let plot = null, shown = "";
  new ResizeObserver(() => plot && canvas.clientWidth &&
    plot.setSize({ width: canvas.clientWidth - 2, height: HEIGHT })).observe(canvas);

  return async function draw(found) {
    const seen = JSON.stringify(found);
    if (seen === shown) {
      return;
    }
    canvas.setAttribute("aria-label", words(found));
    let Plot;
    try {
      Plot = await uPlot();
    } catch (error) {
      canvas.textContent = `There is no picture: ${error.message}. The table has its figures.`;
      return;
    }
    const days = places(found), number = (amounts) => days.map(({ known }) =>
      known === undefined || amounts[known] === null ? null : Number(amounts[known]));
    const heights = stacked(found.series.map((one) => number(one.spent_usd).map((amount) => amount || 0)), days.length);
    plot?.destroy();
    canvas.replaceChildren();
    plot = new Plot(options(Plot, found, days, canvas.clientWidth - 2 || 800),
      [days.map((_, at) => at), ...heights.reverse(), number(found.cap_usd), number(found.denied_calls)], canvas);
    shown = seen;
  };
}
