/* The Budgets tab in Luigi's visualiser: its place on the page, its address, and its refreshes. */

import { askToken } from "./actions.js";
import * as address from "./address.js";
import { me, onToken, signOut } from "./api.js";
import { callsPage } from "./calls.js";
import { showCosts } from "./costs.js";
import { h, show, showFor } from "./dom.js";
import { journalPage } from "./journal.js";
import { runPage } from "./run.js";
import { runsList } from "./runs.js";
import { spendingPage } from "./spending.js";
import { totalsPage } from "./totals.js";

const REFRESH_MS = 5000;

const link = h("a", { href: "#tab=budgets", id: "budgets-link" }, "Budgets");
const said = h("p", { class: "spendguard-said", role: "status" });
const failed = h("div", { class: "spendguard-failed", role: "alert" });
const access = h("p", { class: "spendguard-access" });
const loading = h("p", { class: "spendguard-loading" }, "Loading…");
/** Pages beside the list of runs, by their name in the address: each makes itself in a place. */
const VIEWS = { calls: callsPage, spending: spendingPage, totals: totalsPage, actions: journalPage };
const NAMES = { "": "Runs", calls: "Calls", spending: "Spending", totals: "Totals", actions: "What operators did" };

const views = h("nav", { class: "spendguard-views", "aria-label": "Pages of budgets" });
const list = h("div"), single = h("div");
const pane = h("section", { id: "budgets", class: "tab-pane container-fluid", "aria-label": "Budgets" },
  access, views, said, failed, loading, list, single);

const refreshList = runsList(list);
let refreshSingle = null, shown = "", timer = null, turn = 0;

/** Let a dialog's action run; say `words` when it was done, and show what it has changed. */
async function acted(action, words) {
  const done = await action();
  if (done) {
    said.textContent = done === true ? words : done.said ?? `It was refused: ${done}`;
    refresh();
  }
}

/** Fetch and show what the address asks for; an answer that comes late is dropped. */
async function refresh() {
  clearTimeout(timer);
  const wanted = address.read(), mine = (turn += 1);
  if (wanted === null) {
    return;
  }
  const view = !wanted.run && Object.hasOwn(VIEWS, wanted.view || "") ? wanted.view : "";
  const whole = !wanted.run && !view, named = JSON.stringify([wanted.run, view]);
  show(views, [wanted.run, view], () => Object.entries(NAMES).map(([one, name]) =>
    h("a", { href: address.to({ view: one }), "data-key": `view ${one}`,
      "aria-current": !wanted.run && one === view ? "page" : null }, name)));
  if (named !== shown) {
    shown = named;
    refreshSingle = whole ? null : (wanted.run ? runPage : VIEWS[view])(single, acted);
    said.textContent = "";
    failed.replaceChildren();
    failed.spendguardSeen = undefined;
    loading.hidden = false;
    list.hidden = single.hidden = true;
  }
  try {
    const current = () => mine === turn;
    await (whole ? refreshList : refreshSingle)(wanted, current);
    if (mine !== turn) {
      return;
    }
    failed.replaceChildren();
    failed.spendguardSeen = undefined;
    list.hidden = !whole;
    single.hidden = whole;
  } catch (error) {
    if (mine !== turn) {
      return;
    }
    show(failed, [error.status, error.message], () => trouble(error));
  }
  loading.hidden = true;
  timer = setTimeout(() => (document.hidden ? undefined : refresh()), REFRESH_MS);
}

function trouble(error) {
  if (error.status === 404) {
    list.hidden = single.hidden = true;
    return h("div", { class: "spendguard-trouble" }, h("p", null, error.message), " ",
      h("a", { href: address.to({}), "data-key": "all runs" }, "Show all runs"));
  }
  const readable = error.status !== 401 && error.status !== 403;
  return h("div", { class: "spendguard-trouble" },
    h("p", null, readable ? "What is shown may be old: " : "Budgets cannot be read: ", error.message), " ",
    readable
      ? h("button", { type: "button", class: "btn btn-default btn-sm", "data-key": "again", onclick: refresh }, "Try again")
      : h("button", { type: "button", class: "btn btn-default btn-sm", "data-key": "token",
        onclick: () => acted(askToken, "") }, "Enter your token…"));
}

function showAccess() {
  show(access, me(), (who) => who
    ? [who.name ? `You are ${who.name}, of role ${who.role}` : "You have the admin token, which names nobody",
      ": your token is in this page's memory. ",
      h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": "forget",
        onclick: signOut }, "Forget it")]
    : ["Read only. ", h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": "enter",
      onclick: () => acted(askToken, "It is known now who you are.") }, "Enter your token…")]);
}

/** Luigi's own handler takes an unknown tab for its task list: it does not hear of ours. */
function route(event) {
  const ours = address.read() !== null;
  document.querySelectorAll(".spendguard-dialog").forEach((box) => box.close());  // It was about what stood here.
  link.parentElement.classList.toggle("active", ours);
  pane.classList.toggle("active", ours);
  if (!ours) {
    clearTimeout(timer);
    turn += 1;
    return;
  }
  event?.stopImmediatePropagation();
  activate();
  refresh();
}

/** Keep what we show below Luigi's bar, which stays on top and has several rows where the page is narrow. */
function clear() {
  const bar = document.querySelector(".main-header");
  if (!bar || !pane.classList.contains("active")) {
    return;
  }
  const low = Math.max(...[bar, ...bar.querySelectorAll("*")].map((one) => one.getBoundingClientRect().bottom));
  pane.style.paddingTop = `${Math.max(0, low - pane.getBoundingClientRect().top - scrollY) + 10}px`;
}

function activate() {
  document.querySelectorAll(".tab-content > .tab-pane, #topNavbar > li").forEach((one) =>
    one.classList.toggle("active", one === pane || one === link.parentElement));
  document.body.classList.add("sidebar-collapse");
  clear();
}

function start() {
  const tabs = document.getElementById("topNavbar"), panes = document.querySelector(".tab-content");
  if (!tabs || !panes) {
    console.warn("luigi_spendguard: this page has no tabs that are known; it is left alone");
    return;
  }
  tabs.append(h("li", null, link));
  panes.append(pane);
  onToken(() => {
    showFor(me());
    showAccess();
    refresh();
  });
  showAccess();
  addEventListener("hashchange", route, true);
  // Its row with the pause switch comes late; and it is as wide as the page.
  const bars = new ResizeObserver(clear);
  document.querySelectorAll(".main-header, .main-header .navbar").forEach((one) => bars.observe(one));
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  // When its tasks have arrived, Luigi's page shows them whatever the address says.
  new MutationObserver(() => address.read() !== null && !pane.classList.contains("active") && activate())
    .observe(pane, { attributeFilter: ["class"] });
  route();
  showCosts();
}

start();
