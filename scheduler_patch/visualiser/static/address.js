/* What the Budgets tab shows is in the page's address: `#tab=budgets&run=…`, so it can be sent to somebody. */

/** Return what the address says, null when it is another tab's. */
export function read() {
  const said = new URLSearchParams(location.hash.slice(1));
  return said.get("tab") === "budgets" ? Object.fromEntries(said) : null;
}

/** Return the address (`#…`) of `wanted`; empty values are left out. */
export function to(wanted) {
  const kept = Object.entries(wanted).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return `#${new URLSearchParams([["tab", "budgets"], ...kept.filter(([name]) => name !== "tab")])}`;
}

/** Change the address by `changes`, without a step in the browser's history when `quietly`. */
export function change(changes, quietly = false) {
  const address = to({ ...read(), ...changes });
  if (quietly) {
    history.replaceState(null, "", address);
    dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = address;
  }
}
