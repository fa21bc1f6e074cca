/* The list of runs: sorted, filtered and paged by luigid. */

import * as address from "./address.js";
import { get, page } from "./api.js";
import { bar } from "./bar.js";
import { csvButton } from "./csv.js";
import { h, rows, show, table } from "./dom.js";
import { forecast, some, STATUSES, time, usd } from "./format.js";

const SIZE = 50;
const SHORTEST_MS = 250;
const COLUMNS = [
  ["run_id", "Run"], ["state", "Status"], ["opened_at", "Started"], ["cap_usd", "Cap", "right"],
  ["spent_usd", "Spent", "right"], ["reserved_usd", "Reserved", "right"], ["remaining_usd", "Remaining", "right"],
  ["forecast_usd", "Forecast", "right"], ["", "Of the cap"], ["", "Vendors"], ["denied_calls", "Denied", "right"],
  ["in_doubt_calls", "In doubt", "right"],
];

/** Return the label of a run's status. */
export const label = (run) =>
  h("span", { class: `label spendguard-is-${run.status}` }, STATUSES[run.status] || run.status);

/** Make the list in `place`; returns `refresh()`, which fetches and shows what the address asks for. */
export function runsList(place) {
  const heads = h("tr"), body = h("tbody"), day = h("p", { class: "spendguard-day" });
  const empty = h("p", { class: "spendguard-empty" }), pages = h("nav", { "aria-label": "Pages of runs" });
  const grid = table("Runs and their budgets", [], body, "spendguard-runs");
  grid.querySelector("thead").replaceChildren(heads);
  let typing;
  const search = h("input", { id: "spendguard-search", type: "search", class: "form-control", maxlength: 200,
    placeholder: "run, root or label", oninput: () => {
      clearTimeout(typing);
      typing = setTimeout(() => address.change({ find: search.value, page: "" }, true), SHORTEST_MS);
    } });
  const status = h("select", { id: "spendguard-status", class: "form-control",
    onchange: () => address.change({ status: status.value, page: "" }, true) },
    h("option", { value: "" }, "all"),
    Object.entries(STATUSES).map(([value, name]) => h("option", { value }, name)));
  place.replaceChildren(
    h("form", { class: "form-inline spendguard-filters", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { for: "spendguard-search" }, "Find"), search,
      h("label", { for: "spendguard-status" }, "Status"), status, " ", csvButton("runs", () => {
        const { find, status: of } = address.read();
        return { path: ["runs"], query: { search: find, status: of } };
      }), day),
    grid, empty, pages);

  function heading([name, text, side], sort) {
    const descending = sort === `-${name}`, ascending = sort === name;
    const sorted = descending ? "descending" : ascending ? "ascending" : "none";
    if (!name) {
      return h("th", { scope: "col" }, text);
    }
    return h("th", { scope: "col", "aria-sort": sorted, class: side && `text-${side}` },
      h("button", { type: "button", class: "spendguard-sort", "data-key": `sort ${name}`,
        onclick: () => address.change({ sort: descending ? name : `-${name}`, page: "" }, true) },
        text, h("span", { "aria-hidden": "true" }, descending ? " ▾" : ascending ? " ▴" : "")));
  }

  return async function refresh(wanted, current) {
    const at = Math.max(0, Math.floor(Number(wanted.page)) || 0), sort = wanted.sort || "-opened_at";
    const [{ found, total }, today] = await Promise.all([
      page(["runs"], { search: wanted.find, status: wanted.status, sort, limit: SIZE, offset: at * SIZE }),
      get(["day"]),
    ]);
    if (!current()) {
      return;
    }
    if (document.activeElement !== search) {
      search.value = wanted.find || "";
    }
    status.value = wanted.status || "";
    show(heads, sort, () => COLUMNS.map((column) => heading(column, sort)));
    rows(body, found, (run) => run.run_id, cells);
    grid.hidden = found.length === 0;
    show(empty, [total, wanted.find, wanted.status], () => !found.length && nothing(wanted));
    show(pages, [at, total, found.length], () => found.length > 0 && (total > SIZE || at > 0) && turn(at, total));
    show(day, today, () => today.spent_usd === null || today.day === null ? "" :
      `All runs together today (UTC): ${["spent", "reserved"].map((name) => used(today, name)).join("")}` +
      `${usd(today.remaining_usd)} remaining of ${usd(today.cap_usd)}.`);
  };
}

/** Say what of the day is spent or reserved, and how much of it beyond the day's cap. */
function used(today, name) {
  const beyond = today[`beyond_${name}_usd`];
  return `${usd(today[`${name}_usd`])} ${name}` +
    `${beyond === "0.00" ? "" : ` (${usd(beyond)} of it beyond the cap, by top-ups)`}, `;
}

function cells(run) {
  const amount = (text) => h("td", { class: "text-right spendguard-amount" }, text);
  return [
    h("th", { scope: "row" },
      h("a", { href: address.to({ run: run.run_id }), "data-key": `run ${run.run_id}` }, run.run_id),
      h("div", { class: "spendguard-small", title: run.root_task_id }, run.root_family, run.label && ` · ${run.label}`)),
    h("td", null, label(run)),
    h("td", { class: "spendguard-small" }, time(run.opened_at)),
    amount(usd(run.cap_usd)), amount(usd(run.spent_usd)), amount(some(run.reserved_usd)),
    amount(usd(run.remaining_usd)), h("td", { class: "text-right spendguard-small" }, forecast(run)),
    h("td", null, bar(run)), h("td", null, run.vendors.join(", ")),
    amount(calls(run, run.denied_calls, { verdict: "denied" })),
    amount(calls(run, run.in_doubt_calls, { state: "in_doubt" })),
  ];
}

/** Return a number of a run's calls, which leads to them. */
const calls = (run, number, which) => number > 0 &&
  h("a", { href: address.to({ run: run.run_id, ...which }), "data-key": `${run.run_id} ${Object.keys(which)}` }, number);

function nothing(wanted) {
  if (wanted.find || wanted.status || Number(wanted.page)) {
    return ["No run matches. ", h("a", { href: address.to({}) }, "Show all runs")];
  }
  return "No run was opened yet. A run begins with the first vendor task of a root that a guarded worker runs.";
}

function turn(at, total) {
  const link = (number, text, possible) => h("li", { class: possible ? "" : "disabled" },
    possible ? h("a", { href: address.to({ ...address.read(), page: number || "" }), "data-key": text }, text)
      : h("span", null, text));
  const first = at * SIZE + 1, last = Math.min(total, first + SIZE - 1);
  return h("ul", { class: "pager" },
    link(at - 1, "Previous", at > 0),
    h("li", { class: "spendguard-of" }, `${first} to ${last} of ${total.toLocaleString("en-US")} runs`),
    link(at + 1, "Next", last < total));
}
