/* Makes elements. Texts are always text nodes: names come from pipelines and vendors. */

/** Addresses that a link may lead to: parts of this page, and pages on the web. */
const SAFE = /^(#|https:\/\/)/;

/** Signs that turn the direction of what follows: an amount behind one would read backwards. */
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/**
 * Return an element. `attributes`: `on…` are listeners, booleans are set or left out, null is left out.
 * `children`: elements, texts, numbers, lists of them; null and false are nothing.
 */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (name === "href" && !SAFE.test(value)) {
      throw new Error("a link may lead to this page or to https only");
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, String(value));
    }
  }
  append(element, children);
  return element;
}

function append(parent, children) {
  for (const child of children) {
    if (Array.isArray(child)) {
      append(parent, child);
    } else if (child !== null && child !== undefined && child !== false) {
      parent.append(child instanceof Node ? child : document.createTextNode(String(child).replace(TURNS, "\ufffd")));
    }
  }
}

/** Put a text into the clipboard, over plain HTTP too; resolves to whether it is there. */
async function copied(text) {
  if (navigator.clipboard) {
    return navigator.clipboard.writeText(text).then(() => true, () => false);
  }
  const field = h("textarea", { class: "sr-only", "aria-hidden": "true" }, text), focused = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}

/** Return a command with a button that copies it. */
export function command(text) {
  const said = h("span", { class: "spendguard-small", role: "status" });
  const button = h("button", { type: "button", class: "btn btn-default btn-xs", "data-key": `copy ${text}`,
    "aria-label": `Copy ${text}`, onclick: async () => {
      said.textContent = await copied(text) ? " copied" : " select it and copy it by hand";
    } }, "Copy");
  return h("span", { class: "spendguard-command" }, h("code", null, text), " ", button, said);
}

/** Return a text of luigid's in which each `command` can be copied. */
export function withCommands(text) {
  return text.split(/`(spendguard [^`]+)`/).map((part, place) => (place % 2 ? command(part) : part));
}

/** Return a link to a vendor's or another site's page; a text where the address is none. */
export function external(address, text) {
  return address && SAFE.test(address)
    ? h("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, text)
    : text;
}

/** For whom it is shown: what they may not do, they are told. */
let viewer = null;

/** Let everything be made anew that is shown from now on to somebody else. */
export function showFor(who) {
  viewer = who;
}

/**
 * Let `parent` show `data` by `make(data)`, if that is something else than what it shows. What was focused, or
 * opened, stays so: it is found again by its `data-key`.
 */
export function show(parent, data, make) {
  const seen = JSON.stringify([data, viewer]);
  if (parent.spendguardSeen === seen) {
    return;
  }
  const focused = parent.contains(document.activeElement) && document.activeElement.dataset.key;
  const open = new Set([...parent.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  parent.spendguardSeen = seen;
  parent.replaceChildren();
  append(parent, [make(data)]);
  for (const one of parent.querySelectorAll("[data-key]")) {
    if (one.dataset.key === focused) {
      one.focus({ preventScroll: true });
    }
    if (open.has(one.dataset.key)) {
      one.open = true;
    }
  }
}

/**
 * Let the rows of a table's body be those of `items`, in their order; only rows that changed are made anew.
 * `key(item)` names an item, `make(item)` returns its row.
 */
export function rows(body, items, key, make) {
  const old = new Map([...body.children].map((row) => [row.spendguardKey, row]));
  let place = body.firstChild;
  for (const item of items) {
    const name = key(item);
    let row = old.get(name);
    old.delete(name);
    if (!row) {
      row = h("tr");
      row.spendguardKey = name;
    }
    show(row, item, () => make(item));
    if (row === place) {
      place = place.nextSibling;
    } else {
      body.insertBefore(row, place);
    }
  }
  old.forEach((row) => row.remove());
}

/** Return a table: `headings` are texts or cells, `body` gets the rows. */
export function table(caption, headings, body, classes = "") {
  const cells = headings.map((one) => (one instanceof Node ? one : h("th", { scope: "col" }, one)));
  return h("div", { class: "table-responsive", tabindex: 0, role: "region", "aria-label": caption },
    h("table", { class: `table table-striped ${classes}` },
      h("caption", { class: "sr-only" }, caption),
      h("thead", null, h("tr", null, cells)),
      body));
}
