/* The calls of a run, newest first: filtered and paged by luigid. */

import { resolve } from "./actions.js";
import * as address from "./address.js";
import { get } from "./api.js";
import { external, h, rows, show, table } from "./dom.js";
import { duration, some, time, usd } from "./format.js";

const SIZE = 50;
const HEADINGS = ["Time", "Task", "Vendor", "Operation", "Asked", "Spent", "Verdict", "State", "Object", "Latency"];
const VERDICTS = ["allowed", "replayed", "denied", "denied:cap", "allowed:cap"];

/** Make the table in `place`; `acted(action, words)` runs an action of a dialog. Returns `refresh()`. */
export function callsTable(place, acted) {
  const body = h("tbody"), empty = h("p", { class: "spendguard-empty" });
  const pages = h("nav", { "aria-label": "Pages of calls" });
  const verdict = h("select", { id: "spendguard-verdict", class: "form-control",
    onchange: () => address.change({ verdict: verdict.value, before: "" }, true) },
    h("option", { value: "" }, "all"), VERDICTS.map((one) => h("option", { value: one }, one)));
  const vendor = h("select", { id: "spendguard-vendor", class: "form-control",
    onchange: () => address.change({ vendor: vendor.value, before: "" }, true) });
  const task = h("input", { id: "spendguard-task", type: "search", class: "form-control",
    placeholder: "whole task_id", onchange: () => address.change({ task: task.value.trim(), before: "" }, true) });
  const grid = table("Calls of this run", HEADINGS, body, "spendguard-calls");
  place.replaceChildren(
    h("h3", null, "Calls"),
    h("form", { class: "form-inline spendguard-filters", onsubmit: (event) => event.preventDefault() },
      h("label", { for: "spendguard-verdict" }, "Verdict"), verdict,
      h("label", { for: "spendguard-vendor" }, "Vendor"), vendor,
      h("label", { for: "spendguard-task" }, "Task"), task),
    grid, empty, pages);

  return async function refresh(wanted, run, current) {
    const { verdict: said, vendor: at, task: of, before } = wanted;
    const found = await get(["runs", run.run_id, "calls"],
      { verdict: said, vendor: at, task: of, before, limit: SIZE + 1 });
    const seen = found.slice(0, SIZE);
    if (!current()) {
      return undefined;
    }
    show(vendor, [run.vendors, at], () => ["", ...new Set([...run.vendors, ...(at ? [at] : [])])].map((one) =>
      h("option", { value: one, selected: one === (at || "") }, one || "all")));
    verdict.value = said || "";
    if (document.activeElement !== task) {
      task.value = of || "";
    }
    rows(body, seen, (call) => call.id, (call) => cells(call, acted));
    grid.hidden = seen.length === 0;
    show(empty, [seen.length === 0, said, at, of], () => !seen.length &&
      (said || at || of || before ? "No call matches." : "This run has made no call yet."));
    show(pages, [before, found.length > SIZE, seen.at(-1)?.seq], () => (before || found.length > SIZE) &&
      h("ul", { class: "pager" },
        before && h("li", null, h("a", { href: address.to({ ...address.read(), before: "" }), "data-key": "newest" },
          "Newest")),
        found.length > SIZE && h("li", null,
          h("a", { href: address.to({ ...address.read(), before: seen.at(-1).seq }), "data-key": "older" }, "Older"))));
    return found[0]?.seq;
  };
}

function cells(call, acted) {
  const small = { class: "spendguard-small" };
  const changes = call.corrections.map((one) => h("div", small,
    `${Number(one.usd) > 0 ? "+" : ""}${usd(one.usd)} ${one.note}`));
  const over = some(call.overrun_usd);
  return [
    h("td", small, time(call.created_at)),
    h("td", { class: "spendguard-name" },
      h("a", { href: address.to({ run: call.run_id, task: call.task_id }) }, call.task_id || "no task"),
      call.payment_keys.length > 0 && h("div", small, `pays for ${call.payment_keys.join(", ")}`)),
    h("td", null, call.vendor),
    h("td", null, call.operation, h("div", small, call.target && `for ${call.target}`)),
    h("td", { class: "text-right spendguard-amount" }, some(call.asked_usd)),
    h("td", { class: "text-right spendguard-amount" }, some(call.spent_usd), over && h("div", null, `+ ${over} overrun`),
      changes, call.estimated && h("div", small, "price to come")),
    h("td", null, call.verdict, h("div", small, call.message)),
    h("td", null, (call.state || "").replace("_", " "), call.state === "in_doubt" && h("div", null,
      h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": `resolve ${call.id}`,
        onclick: () => acted(() => resolve(call), "The call is resolved.") }, "Resolve…"))),
    h("td", { class: "spendguard-name" }, external(call.object_url, call.object_id || "")),
    h("td", { class: "text-right spendguard-small" }, duration(call.created_at, call.ended_at)),
  ];
}
