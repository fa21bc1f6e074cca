/* What was spent: a picture of each day, and reports of a range of days. */

import * as address from "./address.js";
import { get } from "./api.js";
import { called, daysPicture } from "./bars.js";
import { csvButton } from "./csv.js";
import { days, range } from "./days.js";
import { h, show, table } from "./dom.js";
import { some, time, usd } from "./format.js";

const SPLITS = { vendor: "vendor", root: "root family", task: "task family" };
const REPORTS = {
  vendor: "cost by vendor", root: "cost by root family", task: "cost by task family", operation: "cost by operation",
  run: "cost by run", customer: "cost by customer", day: "cost by day", tag: "cost by tag…", denied: "what was denied",
  forecast: "forecast and actual",
};
/* Days that the table has at first, and that are shown where none are chosen. */
const FEW = 31, USUAL = 30;

/** Make the page in `place`; returns `refresh(wanted, current)`. */
export function spendingPage(place) {
  const between = days("spending"), pictured = h("div"), table1 = h("div"), body = h("div"), about = h("p");
  const choice = (key, label, among) => {
    const field = h("select", { id: `spendguard-${key}`, class: "form-control",
      onchange: () => address.change({ [key]: field.value }, true) },
      Object.entries(among).map(([value, name]) => h("option", { value }, name)));
    return [h("span", { class: "spendguard-together" }, h("label", { for: field.id }, label), field), field];
  };
  const split = choice("split", "Stacked by", SPLITS), report = choice("report", "Report", REPORTS);
  const tag = h("input", { id: "spendguard-tag", class: "form-control", maxlength: 40, "aria-label": "Tag's name",
    placeholder: "tag's name", onchange: () => address.change({ tag: tag.value.trim() }, true) });
  const compare = h("input", { id: "spendguard-compare", type: "checkbox",
    onchange: () => address.change({ compare: compare.checked ? "true" : "" }, true) });
  let daily = null, rows = [], asked = "", due = 0, whole = false;
  place.replaceChildren(
    h("h2", null, "Spending"),
    h("form", { class: "form-inline spendguard-filters", onsubmit: (event) => event.preventDefault() },
      between.elements, " ", split[0], " ", csvButton("days", () => ({ rows: ofDays(daily) }))),
    pictured, table1,
    h("h3", null, "Reports"),
    h("form", { class: "form-inline spendguard-filters", onsubmit: (event) => event.preventDefault() },
      report[0], " ", tag, " ", h("span", { class: "spendguard-together" }, h("label", { for: compare.id },
        "Compared with before"), " ", compare), " ", csvButton("report", () => ({ rows }))),
    about, body);
  const draw = daysPicture(pictured);

  return async function refresh(wanted, current) {
    const query = range(wanted), kind = Object.hasOwn(REPORTS, wanted.report || "") ? wanted.report : "vendor";
    between.show(wanted);
    split[1].value = Object.hasOwn(SPLITS, wanted.split || "") ? wanted.split : "vendor";
    report[1].value = kind;
    tag.hidden = kind !== "tag";
    tag.value = document.activeElement === tag ? tag.value : wanted.tag || "";
    compare.checked = wanted.compare === "true";
    compare.parentElement.hidden = kind === "denied" || kind === "forecast";
    if (!query.since) {
      const end = wanted.to ? Date.parse(query.until) : Math.floor(Date.now() / 86400000 + 1) * 86400000;
      query.since = new Date(end - USUAL * 86400000).toISOString();
    }
    const key = JSON.stringify([query, split[1].value, kind, wanted.tag, wanted.compare]), begun = performance.now();
    // Of very many calls this takes luigid long, and is asked for less often.
    if (key === asked && begun < due) {
      return;
    }
    const [found, told] = await Promise.all([
      get(["reports", "days"], { ...query, split: split[1].value }), reported(kind, query, wanted)]);
    if (!current()) {
      return;
    }
    asked = key;
    due = performance.now() + 20 * (performance.now() - begun);
    daily = found;
    rows = told.rows || [];
    await draw(found);
    const tabled = () => show(table1, [found, whole], () => daysTable(found, whole, () => {
      whole = true;
      tabled();
    }));
    tabled();
    show(about, [told.problem, told.total, told.pruned_usd], () => told.problem || summary(told));
    show(body, [told.rows, told.others, kind, told.by], () => told.problem ? null : reportTable(kind, told));
  };
}

/** Ask for a report; what cannot be asked is said in its place. */
async function reported(kind, query, wanted) {
  if (kind === "tag" && !wanted.tag) {
    return { problem: "Say which tag: [spendguard_tags] or a root's spend_tags name it." };
  }
  const by = kind === "tag" ? `tag:${wanted.tag}` : kind;
  try {
    return kind === "denied" || kind === "forecast" ? await get(["reports", kind], query)
      : await get(["reports", "cost"], { ...query, by, compare: wanted.compare === "true" ? "true" : "" });
  } catch (error) {
    if (error.status === 400 || error.status === 404) {
      return { problem: error.message };
    }
    throw error;
  }
}

/** Return a row for each day: what was spent under each name. */
function ofDays(found) {
  return (found?.days || []).map((day, place) => ({ day, spent_usd: found.total_usd[place],
    ...Object.fromEntries(found.series.map((one) => [called(one.name), one.spent_usd[place]])),
    cap_usd: found.cap_usd[place], denied_calls: found.denied_calls[place] }));
}

const amount = (text) => h("td", { class: "text-right spendguard-amount" }, text);
const right = (text) => h("th", { scope: "col", class: "text-right" }, text);

function daysTable(found, whole, all) {
  if (found.days.length === 0) {
    return h("p", { class: "spendguard-empty" }, "Nothing was spent or denied on these days.");
  }
  const places = found.days.map((_, place) => place).reverse(), shown = whole ? places : places.slice(0, FEW);
  return [
    table("Spent per day", ["Day (UTC)", right("Spent"), ...found.series.map((one) => right(called(one.name))), right("Day's cap"),
      right("Denied")],
      h("tbody", null, shown.map((place) => h("tr", null,
        h("th", { scope: "row", class: "spendguard-amount" }, found.days[place]), amount(usd(found.total_usd[place])),
        found.series.map((one) => amount(some(one.spent_usd[place]))),
        amount(found.cap_usd[place] === null ? "" : usd(found.cap_usd[place])),
        amount(found.denied_calls[place] || "")))), "spendguard-totals"),
    places.length > shown.length && h("p", null, h("button", { type: "button", class: "btn btn-default btn-sm",
      "data-key": "all days", onclick: all }, `Show all ${places.length} days`)),
  ];
}

function summary(told) {
  const total = told.total;
  if (!total || total.spent_usd === undefined) {
    return null;
  }
  const parts = [["inflow", total.inflow_usd], ["outflow", total.outflow_usd], ["corrections", total.corrections_usd]];
  const within = parts.filter(([, one]) => some(one)).map(([name, one]) => `${usd(one)} ${name}`);
  return `${usd(total.spent_usd)} spent${within.length ? ` (${within.join(", ")} in it)` : ""}` +
    `${some(total.overrun_usd) && `, ${usd(total.overrun_usd)} overrun`}` +
    `${some(told.pruned_usd) && `; calls that came to ${usd(told.pruned_usd)} were pruned and are in no row`}.`;
}

const percent = (text) => (text === null || text === undefined ? "" : `${text.startsWith("-") ? "" : "+"}${text} %`);
const known = (text) => (text === null || text === undefined ? "" : usd(text));

function reportTable(kind, told) {
  if (told.rows.length === 0) {
    return h("p", { class: "spendguard-empty" }, "There is nothing of that in these days.");
  }
  const make = { denied: deniedColumns, forecast: forecastColumns }[kind] || costColumns;
  const [columns, row] = make(told, kind);
  const rows = told.others ? [...told.rows, { ...told.others, name: "others" }] : told.rows;
  return table(REPORTS[kind], columns, h("tbody", null, rows.map((one) => h("tr", null, row(one)))), "spendguard-totals");
}

function costColumns(told, kind) {
  const compared = "before_usd" in told.rows[0];
  const name = (one) => kind === "run" && one.name !== "others"
    ? h("a", { href: address.to({ run: one.name }) }, one.name) : one.name || "(none)";
  return [
    [kind === "tag" ? told.by.slice(4) : REPORTS[kind].replace("cost by ", ""), right("Spent"),
      ...(compared ? ["Before", "Change", "%"].map(right) : []),
      ...["Calls", "Corrections", "Inflow", "Outflow", "Overrun"].map(right)],
    (one) => [h("th", { scope: "row" }, name(one)), amount(usd(one.spent_usd)),
      compared && [amount(known(one.before_usd)), amount(some(one.change_usd)), amount(percent(one.change_percent))],
      amount(one.calls ? one.calls.toLocaleString("en-US") : ""), amount(some(one.corrections_usd)),
      amount(some(one.inflow_usd)), amount(some(one.outflow_usd)), amount(some(one.overrun_usd))],
  ];
}

function deniedColumns() {
  return [
    ["Reason", "Budget", ...["Calls", "Would have cost", "Tries", "Made later", "For"].map(right)],
    (one) => [h("th", { scope: "row" }, one.reason), h("td", null, [one.budget, one.part].filter(Boolean).join(" ")),
      amount(one.calls.toLocaleString("en-US")), amount(usd(one.would_have_cost_usd)),
      amount(one.tries.toLocaleString("en-US")), amount(one.made || ""), amount(some(one.made_usd))],
  ];
}

function forecastColumns() {
  return [
    ["Run", ...["Forecast", "Actual", "Difference", "%", "Unknown tasks"].map(right), "State", "Opened"],
    (one) => [h("th", { scope: "row" }, h("a", { href: address.to({ run: one.run_id }) }, one.run_id)),
      amount(known(one.forecast_usd)), amount(usd(one.actual_usd)), amount(known(one.difference_usd)),
      amount(percent(one.difference_percent)), amount(one.unknown_tasks || ""), h("td", null, one.state),
      h("td", null, time(one.opened_at))],
  ];
}
