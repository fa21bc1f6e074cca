/* Calls of one run, or of all, newest first: filtered and paged by luigid. */

import { resolve } from "./actions.js";
import * as address from "./address.js";
import { forRole, get } from "./api.js";
import { csvButton } from "./csv.js";
import { days, range } from "./days.js";
import { external, h, rows, show, table, withCommands } from "./dom.js";
import { duration, some, time, usd } from "./format.js";

const SIZE = 50;
const HEADINGS = ["Time", "Task", "Vendor", "Operation", "Asked", "Spent", "Verdict", "State", "Object", "Latency"];
const VERDICTS = ["allowed", "replayed", "denied", "denied:cap", "denied:duplicate", "denied:idempotency_mismatch",
  "allowed:cap", "allowed:duplicate"];
const STATES = { in_doubt: "in doubt", pending: "pending", settled: "settled", voided: "voided" };

/** Return what luigid is asked for: calls of one run (its id), or of all (null). */
const asked = (run_id, { verdict, vendor, task, state, customer, ...wanted }) => ({
  path: run_id === null ? ["calls"] : ["runs", run_id, "calls"],
  query: { verdict, vendor, task, state, customer, ...(run_id === null && range(wanted)) },
});

/**
 * Make the table in `place`, of all runs' calls when `whole`; `acted(action, words)` runs an action of a dialog.
 * Returns `refresh(wanted, run, current)`, `run` with the vendors that it has called; null: of all.
 */
export function callsTable(place, acted, whole = false) {
  const body = h("tbody"), empty = h("p", { class: "spendguard-empty" });
  const pages = h("nav", { "aria-label": "Pages of calls" });
  const change = (name, value) => address.change({ [name]: value, before: "" }, true);
  const select = (name, options) => {
    const made = h("select", { id: `spendguard-${name}`, class: "form-control",
      onchange: () => change(name, made.value) }, options);
    return made;
  };
  const text = (name, placeholder) => {
    const made = h("input", { id: `spendguard-${name}`, type: "search", class: "form-control", maxlength: 1000,
      placeholder, onchange: () => change(name, made.value.trim()) });
    return made;
  };
  const verdict = select("verdict", [h("option", { value: "" }, "all"),
    VERDICTS.map((one) => h("option", { value: one }, one))]);
  const state = select("state", [h("option", { value: "" }, "all"),
    Object.entries(STATES).map(([value, name]) => h("option", { value }, name))]);
  const vendor = select("vendor"), task = text("task", "whole task_id");
  const customer = text("customer", "id, number or address"), between = days("calls");
  const label = (field, name) => [h("span", { class: "spendguard-together" },
    h("label", { for: field.id }, name), field), " "];
  const grid = table(whole ? "Calls of all runs" : "Calls of this run", whole ? ["Time", "Run", ...HEADINGS.slice(1)]
    : HEADINGS, body, "spendguard-calls");
  let shown = null;
  place.replaceChildren(
    whole ? h("h2", null, "Calls of all runs") : h("h3", null, "Calls"),
    h("form", { class: "form-inline spendguard-filters", role: "search", onsubmit: (event) => event.preventDefault() },
      label(customer, "Customer"), label(state, "State"), label(verdict, "Verdict"), label(vendor, "Vendor"),
      label(task, "Task"), whole && between.elements, " ", csvButton("calls", () => asked(shown, address.read()))),
    grid, empty, pages);

  return async function refresh(wanted, run, current) {
    shown = run.run_id;
    const { path, query } = asked(shown, wanted), { vendor: at, before } = wanted;
    const filtered = Object.values(query).some(Boolean);
    const found = await get(path, { ...query, before, limit: SIZE + 1 });
    const seen = found.slice(0, SIZE);
    if (!current()) {
      return undefined;
    }
    show(vendor, [run.vendors, at], () => ["", ...new Set([...run.vendors, ...(at ? [at] : [])])].map((one) =>
      h("option", { value: one, selected: one === (at || "") }, one || "all")));
    verdict.value = wanted.verdict || "";
    state.value = wanted.state || "";
    between.show(wanted);
    for (const [field, value] of [[task, wanted.task], [customer, wanted.customer]]) {
      if (document.activeElement !== field) {
        field.value = value || "";
      }
    }
    rows(body, seen, (call) => call.id, (call) => cells(call, acted, whole));
    grid.hidden = seen.length === 0;
    show(empty, [seen.length === 0, filtered, before], () => !seen.length &&
      (filtered || before ? "No call matches." : whole ? "No call was made yet." : "This run has made no call yet."));
    show(pages, [before, found.length > SIZE, seen.at(-1)?.seq], () => (before || found.length > SIZE) &&
      h("ul", { class: "pager" },
        before && h("li", null, h("a", { href: address.to({ ...address.read(), before: "" }), "data-key": "newest" },
          "Newest")),
        found.length > SIZE && h("li", null,
          h("a", { href: address.to({ ...address.read(), before: seen.at(-1).seq }), "data-key": "older" }, "Older"))));
    return found[0]?.seq;
  };
}

/** Make the page of all runs' calls in `place`; returns `refresh(wanted, current)`. */
export function callsPage(place, acted) {
  const refresh = callsTable(place, acted, true);
  let vendors = null;
  return async (wanted, current) => {
    vendors ||= Object.keys((await get(["settings"])).vendors);
    await refresh(wanted, { run_id: null, vendors }, current);
  };
}

function cells(call, acted, whole) {
  const small = { class: "spendguard-small" };
  const changes = call.corrections.map((one) => h("div", small,
    `${Number(one.usd) > 0 ? "+" : ""}${usd(one.usd)} ${one.note}`));
  const over = some(call.overrun_usd);
  return [
    h("td", small, time(call.created_at)),
    whole && h("td", { class: "spendguard-name" }, h("a", { href: address.to({ run: call.run_id }) }, call.run_id)),
    h("td", { class: "spendguard-name" },
      h("a", { href: address.to({ run: call.run_id, task: call.task_id }) }, call.task_id || "no task"),
      call.payment_keys.length > 0 && h("div", small, `pays for ${call.payment_keys.join(", ")}`)),
    h("td", null, call.vendor),
    h("td", null, call.operation, h("div", small, call.target && `for ${call.target}`)),
    h("td", { class: "text-right spendguard-amount" }, some(call.asked_usd)),
    h("td", { class: "text-right spendguard-amount" }, some(call.spent_usd), over && h("div", null, `+ ${over} overrun`),
      changes, call.estimated && h("div", small, "price to come")),
    h("td", null, call.verdict, h("div", small, withCommands(call.message))),
    h("td", null, (call.state || "").replace("_", " "), call.state === "in_doubt" && h("div", null,
      h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": `resolve ${call.id}`,
        ...forRole("operate"), onclick: () => acted(() => resolve(call), "The call is resolved.") }, "Resolve…"))),
    h("td", { class: "spendguard-name" }, h("div", null, external(call.object_url, call.object_id || "")),
      call.vendor_request && h("div", { ...small, title: "The vendor's own id of the request" }, call.vendor_request)),
    h("td", { class: "text-right spendguard-small" }, duration(call.created_at, call.ended_at)),
  ].filter(Boolean);
}
