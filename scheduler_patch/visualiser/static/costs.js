/* In Luigi's Task List: what a task has cost, and its run. */

import * as address from "./address.js";
import { post } from "./api.js";
import { h } from "./dom.js";
import { some, usd } from "./format.js";

const MOST = 500;

/** Show costs beside the tasks that Luigi's table shows, whenever it shows others. */
export function showCosts() {
  const jQuery = window.jQuery;
  if (!jQuery?.fn?.dataTable) {
    return;
  }
  jQuery(document).on("draw.dt", "#taskTable", async function draw() {
    const rows = jQuery(this).DataTable().rows({ page: "current" });
    const cells = new Map();
    rows.every?.(function each() {
      cells.set(this.data().taskId, this.node());
    });
    if (!rows.every) {  // Of DataTables before 1.10.8.
      rows.data().each((task, number) => cells.set(task.taskId, rows.nodes()[number]));
    }
    try {
      await mark(cells);
    } catch (error) {
      if (error.status !== 401 && error.status !== 403) {  // The page goes on without.
        console.warn(`luigi_spendguard: no costs are shown: ${error.message}`);
      }
    }
  });
}

async function mark(cells) {
  const task_ids = [...cells.keys()].filter(Boolean).slice(0, MOST);
  if (task_ids.length === 0) {
    return;
  }
  const { tasks, runs } = (await post(["api", "task_costs"], { task_ids })).response;
  const known = new Map(runs.map((run) => [run.run_id, run]));
  cells.forEach((row) => row?.querySelectorAll(".spendguard-cost").forEach((one) => one.remove()));
  for (const task of tasks) {
    const run = known.get(task.run_id), row = cells.get(task.task_id);
    if (run && row) {
      row.cells[1].append(h("div", { class: "spendguard-cost" },
        some(task.spent_usd) && `${usd(task.spent_usd)} · `,
        some(task.reserved_usd) && `${usd(task.reserved_usd)} reserved · `,
        h("a", { href: address.to({ run: run.run_id }) },
          `run ${usd(run.spent_usd)} of ${usd(run.cap_usd)}`)));
    }
  }
}
