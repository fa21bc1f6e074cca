/* Whole lists as a CSV file: all pages of luigid's answer, with the fields of the API. */

import { page } from "./api.js";
import { h } from "./dom.js";

const PAGE = 1000;
/** Control characters, and signs that turn the direction of what follows. */
// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** Return a field as `spendguard … --format csv` writes it: no cell begins as a spreadsheet's formula does. */
function cell(row, name) {
  let value = row[name];
  if (typeof value === "number" && (name === "at" || name.endsWith("_at"))) {
    value = new Date(value).toISOString().replace("T", " ").replace(/\.\d+/, "");
  } else if (value !== null && typeof value === "object") {
    value = JSON.stringify(value);
  }
  let text = value === null || value === undefined ? "" : String(value).replace(UNSEEN, "?");
  text = /^ *([=@\uff1d\uff20\uff0b\uff0d]|[+-](?![0-9.]*$))/.test(text) ? `'${text}` : text;
  return /[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return rows (objects with the same fields) as a CSV of RFC 4180, with a heading. */
export function csv(rows) {
  const names = rows.length ? Object.keys(rows[0]) : [];
  return [names.join(","), ...rows.map((row) => names.map((name) => cell(row, name)).join(","))]
    .map((line) => `${line}\r\n`).join("");
}

/** Yield the rows of all pages of a list. */
async function* all(path, query) {
  let before = null;
  do {
    const { found, next } = await page(path, { ...query, before, limit: PAGE });
    yield* found;
    before = next;
  } while (before !== null);
}

/** Let the browser keep a text as a file. */
function save(text, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/**
 * Return a button that saves a list, whole, as `name`.csv. `wanted()` returns its path and query, or its rows
 * under `rows` when they are here already.
 */
export function csvButton(name, wanted) {
  const said = h("span", { class: "spendguard-small", "aria-live": "polite" });
  const button = h("button", { type: "button", class: "btn btn-default", onclick: async () => {
    button.disabled = true;
    try {
      const { path, query, rows } = wanted(), found = rows || [];
      if (!rows) {
        for await (const row of all(path, query)) {
          found.push(row);
          if (found.length % PAGE === 0) {
            said.textContent = ` ${found.length.toLocaleString("en-US")} rows…`;
          }
        }
      }
      save(csv(found), `${name}.csv`);
      said.textContent = ` ${found.length.toLocaleString("en-US")} rows saved`;
    } catch (error) {
      said.textContent = ` nothing was saved: ${error.message}`;
    }
    button.disabled = false;
  } }, "CSV");
  return h("span", { class: "spendguard-csv" }, button, said);
}
