/* What the calls of all runs came to in a range of days, by vendor and by task family. */

import { get } from "./api.js";
import { csvButton } from "./csv.js";
import { days, range } from "./days.js";
import { h, show, table } from "./dom.js";
import { count, some, usd } from "./format.js";

const HEADINGS = ["Calls", "Denied", "Spent", "Corrections", "Reserved", "In doubt", "Overrun"];

/** Make the page in `place`; returns `refresh(wanted, current)`. */
export function totalsPage(place) {
  const between = days("totals"), body = h("div");
  let found = null, asked = "", due = 0;
  const rows = () => found === null ? [] : [["vendor", found.by_vendor], ["family", found.by_family]].flatMap(
    ([by, parts]) => parts.map((part) => ({ by, ...part })));
  place.replaceChildren(
    h("h2", null, "Totals of all runs"),
    h("form", { class: "form-inline spendguard-filters", onsubmit: (event) => event.preventDefault() },
      between.elements, " ", csvButton("totals", () => ({ rows: rows() }))),
    body);

  return async function refresh(wanted, current) {
    between.show(wanted);
    const query = range(wanted), key = JSON.stringify(query), begun = performance.now();
    // Of very many calls this takes luigid long, and is asked for less often.
    if (key === asked && begun < due) {
      return;
    }
    const answer = await get(["totals"], query);
    if (!current()) {
      return;
    }
    found = answer;
    asked = key;
    due = performance.now() + 20 * (performance.now() - begun);
    show(body, found, () => about(found));
  };
}

function about(found) {
  const facts = [
    ["Runs that made calls", found.runs.toLocaleString("en-US")],
    ["Calls", found.calls.toLocaleString("en-US")], ["Denied", found.denied_calls && count(found.denied_calls, "call")],
    ["Spent", usd(found.spent_usd)], ["Corrections in it", some(found.corrections_usd)],
    ["Reserved", usd(found.reserved_usd)],
    ["In doubt", found.in_doubt_calls && `${usd(found.in_doubt_usd)} in ${count(found.in_doubt_calls, "call")}`],
    ["Overrun", some(found.overrun_usd)],
  ];
  const pruned = some(found.pruned_usd);
  return [
    h("dl", { class: "spendguard-facts" }, facts.filter(([, text]) => text).map(([name, text]) =>
      h("div", null, h("dt", null, name), h("dd", null, text)))),
    pruned && h("p", null, `Calls that came to ${pruned} were pruned, some of them perhaps of these days: what is ` +
      "pruned is in no total here, but in those of its run."),
    parts("Vendor", found.by_vendor), parts("Task family", found.by_family),
  ];
}

function parts(of, found) {
  const amount = (text) => h("td", { class: "text-right spendguard-amount" }, text);
  const number = (value) => amount(value ? value.toLocaleString("en-US") : "");
  const right = (text) => h("th", { scope: "col", class: "text-right" }, text);
  return found.length > 0 && [h("h3", null, `By ${of.toLowerCase()}`),
    table(`Totals by ${of.toLowerCase()}`, [of, ...HEADINGS.map(right)],
      h("tbody", null, found.map((part) => h("tr", null,
        h("th", { scope: "row" }, part.name || "no task"), number(part.calls), number(part.denied_calls),
        amount(usd(part.spent_usd)), amount(some(part.corrections_usd)), amount(some(part.reserved_usd)),
        amount(some(part.in_doubt_usd)), amount(some(part.overrun_usd))))), "spendguard-totals")];
}
