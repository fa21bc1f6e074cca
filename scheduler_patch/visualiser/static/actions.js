/* What changes something: a dialog that asks, an operator's token, and what luigid says to it. */

import { ApiError, barred, del, get, hasToken, me, post, requestId, signIn, signOut } from "./api.js";
import { h } from "./dom.js";
import { count, forecast, usd, whole } from "./format.js";

/**
 * Ask in a dialog and act; resolves to whether it was done, to `{ said }` where `act` answers with words of its own for
 * that, or to why not when the dialog was closed while it was tried. What is refused is said in the dialog, which then
 * stays open. `act(values, request_id)` gets the values of the named fields, and the same id each time: what was done and
 * whose answer was lost is not done twice.
 */
function dialog({ title, text, fields = [], confirm, danger = false, act }) {
  return new Promise((resolve) => {
    const refused = h("p", { class: "spendguard-refused", role: "alert" });
    const cancel = h("button", { type: "button", class: "btn btn-default", onclick: () => box.close() }, "Cancel");
    const go = h("button", { type: "submit", class: `btn ${danger ? "btn-danger" : "btn-primary"}` }, confirm);
    const box = h("dialog", { class: "spendguard-dialog", "aria-labelledby": "spendguard-title" },
      h("form", { method: "dialog", autocomplete: "off", onsubmit: submit },
        h("h3", { id: "spendguard-title" }, title), text.map((one) => h("p", null, one)), fields, refused,
        h("div", { class: "spendguard-buttons" },
          cancel, go)));
    const request_id = requestId();
    let done = false, acting = false;
    async function submit(event) {
      event.preventDefault();
      if (go.disabled) {
        return;
      }
      refused.replaceChildren();
      go.disabled = cancel.disabled = acting = true;
      let wrong = null;
      try {
        const words = await act(Object.fromEntries(new FormData(event.target)), request_id);
        done = typeof words === "string" ? { said: words } : true;
      } catch (error) {
        wrong = error instanceof ApiError ? error.message : String(error);
        refused.append(wrong);
        if (error.status === 401 && hasToken()) {
          signOut();
        }
      }
      go.disabled = cancel.disabled = acting = false;
      if (!box.isConnected) {  // It was closed meanwhile: what became of it is said all the same.
        resolve(done || wrong);
      } else if (done) {
        box.close();
      }
    }
    box.addEventListener("cancel", (event) => acting && event.preventDefault());
    box.addEventListener("close", () => {
      box.remove();
      if (!acting) {
        resolve(done);
      }
    });
    document.body.append(box);
    box.showModal();
  });
}

const field = (name, label, attributes, help) =>
  h("p", { class: "form-group" },
    h("label", { for: `spendguard-${name}` }, label),
    h("input", { id: `spendguard-${name}`, name, class: "form-control", ...attributes }),
    help && h("span", { class: "help-block" }, help));

const amount = (name, label, more) =>
  field(name, label, { inputmode: "decimal", pattern: "[0-9]+([.][0-9]{1,6})?", placeholder: "12.50",
    title: "an amount such as 50 or 12.50", ...more });

/** Ask for an operator's token, once; resolves to whether it is known whose it is. */
export function askToken() {
  return hasToken() ? Promise.resolve(true) : dialog({
    title: "Your token",
    text: ["Changes need your token of [spendguard_operators] in luigi.cfg or, where operators have no names, the " +
      "admin token: [spendguard] admin_token, or the file beside the ledger that luigid made. It stays in the memory " +
      "of this page."],
    fields: [field("token", "Token", { type: "password", required: true, autocomplete: "off" })],
    confirm: "Use it",
    act: async ({ token }) => {
      if (!/^[\x21-\x7e]+$/.test(token.trim())) {
        throw new ApiError(401, "unauthorized", "this is no token: it has other signs than a token has");
      }
      await signIn(token.trim());
    },
  });
}

/** Ask whose change it is, and for a confirmation; resolves as `dialog`, or to why they may not. */
async function change(about) {
  return (await askToken()) === true && (barred("operate") || dialog(about));
}

/** What of a run a top-up raises, as luigid's API names it; null: its own cap. */
const target = (budget) => budget === null ? {} :
  budget.scope === "day" || budget.scope === "beyond_day" ? { day: true } : { [budget.scope]: budget.part };

const called = (budget) => budget === null ? "" : "day" in target(budget) ? " beyond the day's cap" :
  `: ${budget.scope} ${budget.part}`;

/** Say what a top-up frees, as luigid has weighed it, and what else the rest needs. */
function freed(weighed, verb) {
  const { frees, blocked, still_blocked: still } = weighed;
  const needs = [...(weighed.rest_command ? [`${usd(weighed.rest_usd)} more`] : []),
    ...(frees < blocked ? weighed.other_commands.map((one) => `\`${one}\``) : [])];
  const rest = needs.length ? `; the rest needs ${needs.join(", and ")}` :
    frees < blocked ? "; the rest waits for something else" : "";
  const until = still < blocked - frees ?
    ` Until it is spent, lists count ${still || "none"} as blocked: each task that it is enough for may get it.` : "";
  return `${verb} ${frees} of ${count(blocked, "blocked task")}${weighed.thaws ? ", and thaws the run" : ""}${rest}.` +
    until;
}

/** Top up a run, or a budget inside it: what is needed is said before, and what the amount frees. */
export async function topUp(run, budget = null) {
  if ((await askToken()) !== true || barred("operate")) {
    return barred("operate") || false;
  }
  const { alone_usd: alone, top_up_usd: most } = me();
  const of = budget || run, which = target(budget);
  const path = ["runs", run.run_id, "top_up"];
  const weigh = (by) => get(path, { ...which, usd: by });
  const frees = h("p", { role: "status", class: "spendguard-frees" });
  let asked = 0;
  async function say(by) {
    const mine = ++asked;
    let text = "";
    try {
      text = freed(await weigh(by), "It frees");
    } catch {  // An amount that is not whole yet: what is wrong with it is said when it is confirmed.
    }
    if (mine === asked) {
      frees.replaceChildren(text);
    }
  }
  const weighed = await weigh("").catch(() => null);
  const needed = weighed && `Blocked tasks need ${usd(weighed.needed_usd)} of it: ${usd(weighed.available_usd)} is ` +
    `available, ${usd(weighed.missing_usd)} missing${whole(weighed)}.`;
  const thaw = run.state === "frozen" && (budget === null ? " A top-up thaws the run." :
    " It does not thaw the run: that needs a top-up of the run's own cap.");
  const suggested = weighed && weighed.usd !== "0.00" ? weighed.usd : null;
  if (suggested) {
    frees.replaceChildren(freed(weighed, "It frees"));
  }
  return dialog({
    title: `Top up ${run.run_id}${called(budget)}`,
    text: [`Its cap is ${usd(of.cap_usd)}: ${usd(of.spent_usd)} spent, ${usd(of.reserved_usd)} reserved, ` +
      `${usd(of.remaining_usd)} remaining.${thaw || ""}`, ...(needed ? [needed] : []),
      ...(budget === null ? [] : ["The run's own cap stays as it is, and no other run gets more."]),
      ...(most === null ? [] : [`You may raise the budgets of one run by ${usd(most)} in all.`]),
      ...(alone === null ? [] : [`What comes to more than ${usd(alone)} of one run waits for a second operator.`])],
    fields: [amount("usd", "Raise it by (USD)", { required: true, value: suggested,
      oninput: (event) => say(event.target.value.trim()) }), frees],
    confirm: "Top up",
    act: async ({ usd: by }, request_id) => {
      const { waiting } = await post(path, { usd: by.trim(), request_id, ...which });
      return waiting && `Nothing is raised yet: ${usd(waiting.usd)} of ${run.run_id} waits for a second operator ` +
        `(${waiting.confirmers.join(" or ")}).`;
    },
  });
}

/** What a top-up that waits is of, for people. */
function whatWaits(one) {
  const inside = { run: "", day: " beyond the day's cap" }[one.scope] ?? `: ${one.scope} ${one.part}`;
  return `${usd(one.usd)} of ${one.run_id}${inside}`;
}

export function confirmTopUp(one) {
  return change({
    title: `Confirm ${one.id}`,
    text: [`A top-up of ${whatWaits(one)}, which ${one.asked_by} has asked for. You are its second operator.`],
    confirm: "Confirm",
    act: (_, request_id) => post(["top_ups", one.id, "confirm"], { request_id }),
  });
}

export function withdrawTopUp(one) {
  return change({
    title: `Withdraw ${one.id}`,
    text: [`A top-up of ${whatWaits(one)}, which ${one.asked_by} has asked for. It then raises nothing.`],
    confirm: "Withdraw",
    act: () => del(["top_ups", one.id]),
  });
}

export function revoke(run) {
  return change({
    title: `Revoke ${run.run_id}`,
    text: ["This ends the run's spending for good: it cannot be undone. Calls that were sent already settle as " +
      "usual; other runs are untouched."],
    confirm: "Revoke the run",
    danger: true,
    act: () => del(["runs", run.run_id]),
  });
}

export function approve(run) {
  const grown = run.grown.map((one) => `${one.family} by ${usd(one.usd)} in ${count(one.tasks, "task")}`);
  return change({
    title: `Approve ${run.run_id}`,
    text: [`Its tasks say they may cost ${forecast(run)}; its cap is ${usd(run.cap_usd)}, and stays as it is.`,
      ...(grown.length ? [`Since ${usd(run.approved_usd)} was approved it has grown: ${grown.join("; ")}.`] : [])],
    fields: [amount("usd", "Let the forecast pass up to (USD)", { required: true, value: run.forecast_usd },
      "When it grows above that, the run is held again.")],
    confirm: "Approve",
    act: ({ usd: most }, request_id) => post(["runs", run.run_id, "approve"], { usd: most.trim(),
      unknown_tasks: run.unknown_tasks, request_id, ...(most.trim() !== run.forecast_usd && { up_to: true }) }),
  });
}

export function approveTask(run, task) {
  return change({
    title: "Approve a task",
    text: [task.task_id, task.duplicate_of
      ? `It asks for ${usd(task.cost_usd)}. Call ${task.duplicate_of} of ${task.duplicate_task_id} may have made ` +
        `the same: approve it only if it is another payment. If you do not: ${task.warning}.`
      : `It may cost ${usd(task.cost_usd)}.`],
    confirm: `Approve ${usd(task.cost_usd)}`,
    act: (_, request_id) => post(["runs", run.run_id, "approve"], { usd: task.cost_usd, task_id: task.task_id,
      ...(task.duplicate_of && { duplicate_of: task.duplicate_of }), request_id }),
  });
}

export function revokeKey(key) {
  return change({
    title: `Revoke key ${key.id}`,
    text: [`No further call is sent under it, for good. It belongs to run ${key.run_id}` +
      (key.task_id ? `, task ${key.task_id}.` : ".")],
    confirm: "Revoke the key",
    danger: true,
    act: () => del(["vault", "keys", key.id]),
  });
}

export function resolve(call) {
  return change({
    title: "Resolve a call in doubt",
    text: [`${call.operation} of task ${call.task_id}, ${usd(call.reserved_usd)} reserved. Look at ` +
      `${call.vendor}'s own books first: what you say here ends the call.`],
    fields: [
      h("p", { class: "radio" }, h("label", null,
        h("input", { type: "radio", name: "what", value: "not_sent", required: true }),
        "Nothing was sent, or it cost nothing")),
      h("p", { class: "radio" }, h("label", null,
        h("input", { type: "radio", name: "what", value: "spent" }), "It cost the amount below")),
      amount("spent_usd", "Amount (USD)", { value: call.reserved_usd }),
      field("object_id", "The vendor's object", { placeholder: "pi_… or SM…", value: call.object_id || "" },
        "Without it the task's next attempt is refused (idempotency_mismatch): its answer cannot be fetched."),
      h("p", { class: "checkbox" }, h("label", null, h("input", { type: "checkbox", name: "overrun" }),
        "It really cost more than was reserved (books the rest as overrun, and freezes the run)")),
    ],
    confirm: "Resolve",
    act: (said, request_id) => post(["calls", call.id, "resolve"], { request_id,
      ...(said.what === "not_sent" ? { not_sent: true } : { spent_usd: said.spent_usd.trim(),
        ...(said.object_id.trim() && { object_id: said.object_id.trim() }) }),
      ...(said.overrun && { overrun: true }),
    }),
  });
}

