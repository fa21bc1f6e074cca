/* A run's cap as a bar: what is spent, reserved and overrun of it. */

import { h } from "./dom.js";
import { some, usd } from "./format.js";

/** Return a bar for anything with `cap_usd`, `spent_usd`, `reserved_usd` and `overrun_usd`. */
export function bar(budget) {
  const spent = Number(budget.spent_usd), reserved = Number(budget.reserved_usd || 0);
  const overrun = Number(budget.overrun_usd || 0);
  const whole = Math.max(Number(budget.cap_usd), spent + reserved + overrun) || 1;
  const part = (amount, name) => amount > 0 &&
    h("div", { class: `spendguard-${name}`, style: `width: ${(100 * amount) / whole}%` });
  const words = [`${usd(budget.spent_usd)} spent`];
  if (some(budget.reserved_usd)) {
    words.push(`${usd(budget.reserved_usd)} reserved`);
  }
  if (some(budget.overrun_usd)) {
    words.push(`${usd(budget.overrun_usd)} overrun`);
  }
  const text = `${words.join(", ")} of ${usd(budget.cap_usd)}`;
  return h("div", { class: "spendguard-bar", role: "img", "aria-label": text, title: text },
    part(spent, "spent"), part(reserved, "reserved"), part(overrun, "overrun"));
}
