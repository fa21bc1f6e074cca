/* How amounts, times and states are written. Amounts are decimal texts and stay texts: no rounding. */

/** Return an amount of the API ("-1234.5") as people write it ("−$1,234.50"). */
export function usd(amount) {
  const [, sign, whole, part] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(amount) || ["", "", "0", ""];
  const cents = (part || "").padEnd(2, "0");
  return `${sign ? "−" : ""}$${whole.replace(/\B(?=(\d{3})+$)/g, ",")}.${cents}`;
}

/** Return an amount, or nothing where there is none or it is zero. */
export function some(amount) {
  return amount === null || amount === undefined || Number(amount) === 0 ? "" : usd(amount);
}

/** Return why more of the day's cap is missing than what is needed less what is available, or nothing. */
export function whole(short) {
  const [needed, available, missing] = ["needed", "available", "missing"].map((name) => Number(short[`${name}_usd`]));
  return short.scope === "day" && missing - Math.max(0, needed - available) > 1e-7 ?
    " (a task's call goes into the day's cap or beyond it, as a whole)" : "";
}

/** Return a time (milliseconds since the epoch) as Luigi's page writes its own, with its zone. */
export function time(ms) {
  return ms === null || ms === undefined ? "" : new Date(ms).toLocaleString(undefined, { timeZoneName: "short" });
}

/** Return how long a call took, in milliseconds or seconds. */
export function duration(from, to) {
  if (from === null || to === null || from === undefined || to === undefined) {
    return "";
  }
  const ms = Math.max(0, to - from);
  return ms < 10000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** Return `1 task`, `2 tasks`. */
export function count(number, name) {
  return `${number.toLocaleString("en-US")} ${name}${number === 1 ? "" : "s"}`;
}

/** Return how many tasks money keeps from running, as `protocol.blocked_text` does. */
export function blocked(due, behind) {
  const number = (value) => value.toLocaleString("en-US");
  return !due ? behind ? `${number(behind)} not due yet` : "" :
    `${number(due)} due` + (behind ? `, ${number(behind)} behind ${due === 1 ? "it" : "them"}` : "");
}

/** What a run's statuses are called: the worst that is true of it. */
export const STATUSES = {
  active: "active",
  denied: "denied",
  blocked: "blocked",
  held: "held for approval",
  in_doubt: "in doubt",
  frozen: "frozen",
  revoked: "revoked",
  ended: "ended",
};

/** Return what a run may cost, and how sure that is. */
export function forecast(run) {
  if (run.forecast_usd === null) {
    return "";
  }
  const estimated = Number(run.estimated_usd) === 0 ? "" : run.estimated_usd === run.forecast_usd
    ? " (estimated)" : ` (${usd(run.estimated_usd)} of it estimated)`;
  const now = run.expected_usd && run.expected_usd !== run.forecast_usd ? `; by now ${usd(run.expected_usd)}` : "";
  const unknown = run.unknown_tasks ? ` + ${count(run.unknown_tasks, "task")} of unknown cost${now}` : "";
  return usd(run.forecast_usd) + estimated + unknown;
}
