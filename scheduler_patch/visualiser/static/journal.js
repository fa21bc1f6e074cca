/* What operators did, newest first: of one run, or of all. */

import * as address from "./address.js";
import { page } from "./api.js";
import { csvButton } from "./csv.js";
import { days, range } from "./days.js";
import { h, rows, show, table } from "./dom.js";
import { some, time, usd } from "./format.js";
import { waitingTopUps } from "./topups.js";

const SIZE = 50, FEW = 10;
const KINDS = {
  top_up: "top-up", ask_top_up: "top-up asked for", withdraw_top_up: "top-up withdrawn", approve: "approval",
  revoke: "run revoked", revoke_key: "key revoked", resolve: "call resolved",
  prune: "pruned", forget: "customer forgotten", correction: "amount corrected",
};

/** Make the list of all runs in `place`; returns `refresh(wanted, current)`. */
export function journalPage(place, acted) {
  const between = days("journal"), body = h("tbody"), empty = h("p", { class: "spendguard-empty" });
  const pages = h("nav", { "aria-label": "Pages of actions" });
  const kind = h("select", { id: "spendguard-kind", class: "form-control",
    onchange: () => address.change({ kind: kind.value, before: "" }, true) },
    h("option", { value: "" }, "what operators did"),
    Object.entries(KINDS).map(([value, name]) => h("option", { value }, name)));
  const query = (wanted) => ({ kind: wanted.kind, run: wanted.of, ...range(wanted) });
  const grid = list("What operators did", true, body);
  const waits = h("div"), waiting = waitingTopUps(waits, acted);
  place.replaceChildren(
    h("h2", null, "What operators did"), waits,
    h("form", { class: "form-inline spendguard-filters", onsubmit: (event) => event.preventDefault() },
      h("label", { for: kind.id }, "Kind"), kind, " ", between.elements, " ",
      csvButton("actions", () => ({ path: ["actions"], query: query(address.read()) }))),
    grid, empty, pages);

  return async function refresh(wanted, current) {
    await waiting("", current);
    const { found, next } = await page(["actions"], { ...query(wanted), before: wanted.before, limit: SIZE });
    if (!current()) {
      return;
    }
    kind.value = wanted.kind || "";
    between.show(wanted);
    rows(body, found, (one) => one.seq, (one) => cells(one, true));
    grid.hidden = found.length === 0;
    show(empty, found.length === 0, (nothing) => nothing && "Nothing of that was done.");
    show(pages, [wanted.before, next], () => (wanted.before || next) && h("ul", { class: "pager" },
      wanted.before && h("li", null, h("a", { href: address.to({ ...wanted, before: "" }), "data-key": "newest" },
        "Newest")),
      next && h("li", null, h("a", { href: address.to({ ...wanted, before: next }), "data-key": "older" }, "Older"))));
  };
}

/** Make the last of what was done to one run in `place`; returns `refresh(run_id, current)`. */
export function journalOf(place) {
  const body = h("tbody"), none = h("p"), more = h("p");
  const grid = list("What operators did to this run", false, body);
  place.replaceChildren(h("h3", null, "What operators did"), none, grid, more);

  return async function refresh(run_id, current) {
    const { found, next } = await page(["actions"], { run: run_id, limit: FEW });
    if (!current()) {
      return;
    }
    rows(body, found, (one) => one.seq, (one) => cells(one, false));
    grid.hidden = found.length === 0;
    show(none, found.length === 0, (nothing) => nothing && "Nothing: it was not topped up, approved or revoked.");
    show(more, [run_id, next], () => next &&
      h("a", { href: address.to({ view: "actions", of: run_id }), "data-key": "all actions" }, "All of it"));
  };
}

function list(caption, whole, body) {
  return table(caption, ["Time", ...(whole ? ["Run"] : []), "What", h("th", { scope: "col", class: "text-right" },
    "Amount"), "Of what", "Who"], body, "spendguard-journal");
}

function cells(one, whole) {
  return [
    h("td", { class: "spendguard-small" }, time(one.at)),
    whole && h("th", { scope: "row", class: "spendguard-name" },
      one.run_id && h("a", { href: address.to({ run: one.run_id }) }, one.run_id)),
    h("td", null, KINDS[one.kind] || one.kind),
    h("td", { class: "text-right spendguard-amount" }, one.usd === null ? "" : change(one)),
    h("td", { class: "spendguard-name" }, about(one)),
    h("td", null, one.actor),
  ].filter(Boolean);
}

/** Return an amount; a top-up and a correction are changes of one. */
function change(one) {
  const sign = ["top_up", "ask_top_up", "correction"].includes(one.kind) && Number(one.usd) > 0 ? "+" : "";
  return sign + (one.kind === "correction" ? some(one.usd) : usd(one.usd));
}

function about(one) {
  const of = (query, text) => h("a", { href: address.to({ run: one.run_id, ...query }) }, text);
  const small = (...parts) => h("div", { class: "spendguard-small" }, parts);
  if (one.kind === "approve") {
    return [one.task_id === null ? "the forecast" : of({ task: one.task_id }, one.task_id),
      one.unknown_tasks > 0 && ` and ${one.unknown_tasks} ${one.unknown_tasks === 1 ? "task" : "tasks"} of unknown cost`,
      one.call_id && small(`beside call ${one.call_id}`), one.note && small(one.note)];
  }
  return [
    one.task_id && of({ task: one.task_id }, one.task_id), one.key_id && `key ${one.key_id}`,
    one.call_id && small(`call ${one.call_id}`), one.note && small(one.note),
  ];
}
