/* Top-ups that wait for a second operator: of one run, or of all. */

import * as actions from "./actions.js";
import * as address from "./address.js";
import { forRole, get, me } from "./api.js";
import { h, show, table } from "./dom.js";
import { time, usd } from "./format.js";

/** Make the list in `place`, which is empty while nothing waits; returns `refresh(run_id, current)`, "" for all. */
export function waitingTopUps(place, acted) {
  return async function refresh(run_id, current) {
    const found = await get(["top_ups"], { run: run_id, state: "waiting" });
    if (current()) {
      show(place, found, () => found.length > 0 && [
        h("h3", null, "Top-ups that wait for a second operator"),
        table("Top-ups that wait for a second operator",
          ["Amount", "Run", "Budget", "Asked by", "Asked", "Expires", "May confirm", ""],
          h("tbody", null, found.map((one) => row(one, acted)))),
      ]);
    }
  };
}

/** Return why who is signed in cannot be the second operator of a top-up; null: they can, or nobody is. */
function notSecond(one) {
  return me() === null || one.confirmers.includes(me().name) ? null :
    `You are ${me().shown}: ${one.confirmers.join(" or ") || "nobody"} can confirm it.`;
}

function row(one, acted) {
  const button = (text, attributes, act, words) =>
    h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": `${text} ${one.id}`,
      "aria-label": `${text} ${one.id}`, onclick: () => acted(() => act(one), words), ...attributes }, `${text}…`);
  const why = notSecond(one);
  return h("tr", null,
    h("td", { class: "text-right spendguard-amount" }, usd(one.usd)),
    h("th", { scope: "row", class: "spendguard-name" }, h("a", { href: address.to({ run: one.run_id }) }, one.run_id)),
    h("td", null, `${one.scope} ${one.part}`), h("td", null, one.asked_by),
    h("td", { class: "spendguard-small" }, time(one.asked_at)),
    h("td", { class: "spendguard-small" }, time(one.expires_at)),
    h("td", null, one.confirmers.join(", ")),
    h("td", null,
      button("Confirm", { disabled: why !== null, title: why }, actions.confirmTopUp, `${one.run_id} is topped up.`),
      " ",
      button("Withdraw", forRole("operate"), actions.withdrawTopUp, `${one.id} is withdrawn: it raises nothing.`)));
}
