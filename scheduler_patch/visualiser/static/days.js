/* A range of days in UTC, as `daily_cap_usd` counts them: two fields, in the page's address as `from` and `to`. */

import * as address from "./address.js";
import { h } from "./dom.js";

const DAY_MS = 86400000;
const IS_DAY = /^\d{4}-\d\d-\d\d$/;

/** Return the query of luigid for the days of an address: both are whole, and in it. */
export function range({ from, to }) {
  const day = (text, more) => {
    const at = IS_DAY.test(text || "") ? Date.parse(`${text}T00:00:00Z`) : NaN;
    return Number.isNaN(at) ? "" : new Date(at + more).toISOString();
  };
  return { since: day(from, 0), until: day(to, DAY_MS) };
}

/** Return the fields as `elements`, and `show(wanted)`, which lets them say what the address says. */
export function days(name) {
  const field = (key, label) => {
    const input = h("input", { id: `spendguard-${name}-${key}`, type: "date", class: "form-control", min: "2000-01-01",
      onchange: () => address.change({ [key]: input.value, before: "" }, true) });
    return [h("span", { class: "spendguard-together" }, h("label", { for: input.id }, label), input), input];
  };
  const from = field("from", "From"), to = field("to", "to");
  return {
    elements: [from[0], " ", to[0], h("span", { class: "spendguard-small" }, " days in UTC")],
    show: (wanted) => [[from[1], wanted.from], [to[1], wanted.to]].forEach(([input, value]) => {
      if (document.activeElement !== input) {
        input.value = value || "";
      }
    }),
  };
}
