/* One run: its budgets, its spending over time, what of it is blocked, its keys and its calls. */

import * as actions from "./actions.js";
import * as address from "./address.js";
import { forRole, get, hasToken } from "./api.js";
import { bar } from "./bar.js";
import { callsTable } from "./calls.js";
import { h, show, table, withCommands } from "./dom.js";
import { blocked as blockedText, count, forecast, some, time, usd, whole } from "./format.js";
import { journalOf } from "./journal.js";
import { spendingPlot } from "./plot.js";
import { label } from "./runs.js";
import { waitingTopUps } from "./topups.js";

/** Luigi's own page of a task. */
const graph = (task_id) => `#tab=graph&taskId=${encodeURIComponent(task_id)}`;

/** Make the page in `place`; `acted(action, words)` runs a dialog's action. Returns `refresh(wanted)`. */
export function runPage(place, acted) {
  const head = h("div"), blocked = h("div"), keys = h("div"), calls = h("div"), done = h("div"), asked = h("div");
  const by = h("div", { class: "btn-group", role: "group", "aria-label": "Split by" });
  const spent = h("div", null, h("h3", null, "Spending"), by);
  place.replaceChildren(head, asked, spent, blocked, done, keys, calls);
  const plot = spendingPlot(spent), table_ = callsTable(calls, acted), journal = journalOf(done);
  const waits = waitingTopUps(asked, acted);
  let plotted = "", due = 0;

  return async function refresh(wanted, current) {
    const run = await get(["runs", wanted.run]);
    const split = wanted.by === "family" ? "family" : "vendor";
    // The plot is read anew only when the run's books have changed.
    const key = JSON.stringify([run.run_id, split]);
    const newest = await table_(wanted, run, current);
    const books = key + JSON.stringify([run.spent_usd, run.overrun_usd, run.reserved_usd, run.cap_usd,
      run.denied_calls, newest]);
    const begun = performance.now(), other = !plotted.startsWith(key);
    const [spending, found] = await Promise.all([
      books === plotted || (begun < due && !other) ? null : get(["runs", run.run_id, "spending"], { by: split }),
      hasToken() ? get(["vault", "keys"], { run: run.run_id }) : null,
      journal(run.run_id, current), waits(run.run_id, current),
    ]);
    if (!current()) {
      return;
    }
    show(head, run, () => about(run, acted));
    show(by, split, () => ["vendor", "family"].map((one) =>
      h("button", { type: "button", class: `btn btn-default btn-sm${one === split ? " active" : ""}`,
        "aria-pressed": String(one === split), "data-key": `by ${one}`,
        onclick: () => address.change({ by: one === "vendor" ? "" : one }, true) },
        one === "vendor" ? "By vendor" : "By task family")));
    show(blocked, [run.blocked, run.reasons, run.to_come, run.awaiting_approval, run.budgets], () => waiting(run, acted));
    show(keys, found, () => vaultKeys(found, acted));
    if (spending) {
      // What takes luigid long, of a run with very many calls, is asked for less often.
      due = performance.now() + 20 * (performance.now() - begun);
      await plot(spending);
      plotted = books;
    }
  };
}

function about(run, acted) {
  const button = (text, action, words, kind = "default") =>
    h("button", { type: "button", class: `btn btn-${kind} btn-sm`, "data-key": text,
      ...forRole("operate"), onclick: () => acted(() => action(run), words) }, text);
  const over = run.state === "revoked"; // What was announced in one that has ended goes on.
  const facts = [
    ["Root task", h("a", { href: graph(run.root_task_id) }, run.root_task_id)], ["Label", run.label],
    ["Started", time(run.opened_at)], ["Ended", time(run.ended_at)], ["Cap", usd(run.cap_usd)],
    ["Spent", usd(run.spent_usd)], ["Inflow in it", some(run.inflow_usd)], ["Outflow in it", some(run.outflow_usd)],
    ["Tags", Object.entries(run.tags).map(([name, value]) => `${name}: ${value}`).join(", ")], ["Reserved", some(run.reserved_usd)],
    ["In doubt", run.in_doubt_calls && `${usd(run.in_doubt_usd)} in ${count(run.in_doubt_calls, "call")}`],
    ["Remaining", usd(run.remaining_usd)], ["Overrun", some(run.overrun_usd)], ["Forecast", forecast(run)],
    ["Approved", run.approved_usd === null ? "" : usd(run.approved_usd)],
    ["Blocked", blockedText(Object.values(run.blocked_tasks).reduce((sum, one) => sum + one, 0), run.behind_tasks)],
    ["Denied", run.denied_calls && count(run.denied_calls, "call")],
    ["Shadow mode", run.shadow_calls && `${count(run.shadow_calls, "call")} let through; a cap of ` +
      `${usd(run.sufficient_cap_usd)} would have sufficed`],
    ["Note", run.note],
  ];
  return h("div", null,
    h("p", null, h("a", { href: address.to({}), "data-key": "all" }, "← All runs")),
    h("h2", { tabindex: -1, class: "spendguard-heading" }, run.run_id, " ", label(run)),
    bar(run),
    h("dl", { class: "spendguard-facts" }, facts.filter(([, text]) => text).map(([name, text]) =>
      h("div", null, h("dt", null, name), h("dd", null, text)))),
    !over && h("p", { class: "spendguard-buttons" },
      button("Top up…", actions.topUp, `The cap of ${run.run_id} is raised.`),
      run.blocked_tasks.forecast && run.forecast_usd !== null &&
        button("Approve forecast…", actions.approve, `The forecast of ${run.run_id} is approved.`),
      button("Revoke…", actions.revoke, `${run.run_id} is revoked: no further call of it is sent.`, "danger")));
}

/** What budgets inside a run are called. */
const INSIDE = { beyond_day: "beyond day" };

function waiting(run, acted) {
  const over = run.state === "revoked"; // What was announced in one that has ended goes on.
  const budgets = run.budgets.length > 0 && [
    h("h3", null, "Budgets inside the run"),
    table("Budgets inside the run", ["Budget", "Cap", "Spent", "Reserved", "Remaining", "Of the cap", ""],
      h("tbody", null, run.budgets.map((budget) => h("tr", null,
        h("th", { scope: "row" }, `${INSIDE[budget.scope] || budget.scope} ${budget.part}`),
        [budget.cap_usd, budget.spent_usd, budget.reserved_usd, budget.remaining_usd].map((one) =>
          h("td", { class: "text-right spendguard-amount" }, usd(one))),
        h("td", null, bar(budget)),
        h("td", null, !over && budget.scope !== "beyond_day" && h("button", { type: "button",
          class: "btn btn-default btn-xs", "data-key": `top up ${budget.scope} ${budget.part}`,
          "aria-label": `Top up ${budget.scope} ${budget.part}…`, ...forRole("operate"),
          onclick: () => acted(() => actions.topUp(run, budget), `A budget of ${run.run_id} is raised.`) },
          "Top up…")))))),
  ];
  const reason = (why) => h("li", null, h("strong", null, why.text),
    why.missing_usd !== null && `: ${usd(why.needed_usd)} needed, ${usd(why.available_usd)} available, ` +
      `${usd(why.missing_usd)} missing${whole(why)}`,
    why.tasks + why.behind > 0 && ` (${blockedText(why.tasks, why.behind)})`,
    h("div", null, withCommands(why.advice)));
  const reasons = run.reasons.map(reason), next = run.to_come.map(reason);
  const by = (group) => group.reasons.map((why) => [why.code, why.part].filter(Boolean).join(" ")).join(", ");
  const groups = run.blocked.map((group) => h("li", null,
    h("strong", null, blockedText(group.tasks, group.behind)),
    run.blocked.length > 1 && `, held by ${by(group)}`,
    h("details", { "data-key": `tasks ${by(group)}` }, h("summary", null, "Show tasks"),
      h("ul", null, group.task_ids.map((task) => h("li", null, h("a", { href: graph(task) }, task)))),
      group.tasks + group.behind > group.task_ids.length && h("p", null,
        `and ${(group.tasks + group.behind - group.task_ids.length).toLocaleString("en-US")} more`))));
  const approvals = run.awaiting_approval.map((task) => h("li", null,
    h("a", { href: graph(task.task_id) }, task.task_id), task.duplicate_of
      ? ` asks for ${usd(task.cost_usd)}, which call ${task.duplicate_of} of ${task.duplicate_task_id} may have ` +
        `paid: ${task.warning} `
      : ` may cost ${usd(task.cost_usd)} `,
    h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": `approve ${task.task_id}`,
      ...forRole("operate"), onclick: () => acted(() => actions.approveTask(run, task), "The task is approved.") }, "Approve…")));
  return h("div", null, budgets,
    reasons.length > 0 && [h("h3", null, "What holds it"), h("ul", { class: "spendguard-reasons" }, reasons)],
    next.length > 0 && [h("h3", null, "What will hold it next"), h("ul", { class: "spendguard-reasons" }, next)],
    groups.length > 0 && [h("h3", null, "Blocked tasks"), h("ul", null, groups)],
    approvals.length > 0 && [h("h3", null, "Tasks that wait for an approval"), h("ul", null, approvals)]);
}

function vaultKeys(keys, acted) {
  if (keys === null) {
    return h("div", null, h("h3", null, "Vault keys"), h("p", null, "Shown to operators. ",
      h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": "show keys",
        onclick: () => acted(actions.askToken, "") }, "Show them…")));
  }
  return h("div", null, h("h3", null, "Vault keys"), keys.length === 0
    ? h("p", null, "No key of this run was asked for, and none of its tasks runs now.")
    : table("Vault keys of this run", ["Key", "Task", "Vendor", "State", "Caps", "Allowed", "Expires", ""],
      h("tbody", null, keys.map((key) => row(key, acted)))));
}

function row(key, acted) {
  const caps = [[key.run_usd_cap, "in all"], [key.daily_usd_cap, "a day"]].filter(([cap]) => cap !== null);
  const allowed = [...key.allowed_endpoints, ...key.allowed_customers, ...key.allowed_accounts];
  return h("tr", null,
    h("th", { scope: "row", class: "spendguard-name" }, key.id, h("div", { class: "spendguard-small" }, key.label)),
    h("td", { class: "spendguard-name" }, key.task_id), h("td", null, key.vendor || "every"),
    h("td", null, key.state), h("td", null, caps.map(([cap, when]) => `${usd(cap)} ${when}`).join(", ")),
    h("td", null, allowed.join(", ")),
    h("td", { class: "spendguard-small" }, key.expires_at ? time(Date.parse(key.expires_at)) : ""),
    h("td", null, key.state === "active" && h("button", { type: "button", class: "btn btn-default btn-xs",
      "data-key": `revoke ${key.id}`, ...forRole("operate"),
      onclick: () => acted(() => actions.revokeKey(key), "The key is revoked.") },
      "Revoke key…")));
}
