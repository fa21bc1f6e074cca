/* Asks luigid. Addresses are relative to Luigi's page, so that a prefix before it does not matter. */

const ROOT = new URL("../../", document.baseURI);
const TIMEOUT_MS = 15000;

/** An operator's token, in this page's memory alone; it is never stored, and gone with the page. */
let token = "";
/** What luigid says of who shows it (`GET /whoami`); null: nobody is signed in. */
let who = null;
const listeners = [];

export const hasToken = () => who !== null;

/** Return who is signed in, as `GET /whoami` has it; null: nobody is. */
export const me = () => who;

/** Take a token, if luigid says whose it is; else none is kept, and what it has said is thrown. */
export async function signIn(value) {
  token = value;
  try {
    who = await get(["whoami"]);
  } catch (error) {
    token = "";
    throw error;
  }
  listeners.forEach((listener) => listener());
}

export function signOut() {
  token = "";
  who = null;
  listeners.forEach((listener) => listener());
}

/** Return why who is signed in may not do what needs a role; null: they may, or nobody is. */
export function barred(needed) {
  return who === null || who.may.includes(needed) ? null :
    `You are ${who.shown}, of role ${who.role}: this needs role ${needed}.`;
}

/** Return the attributes of a button for what needs a role: who may not is told why. */
export const forRole = (needed) => ({ disabled: barred(needed) !== null, title: barred(needed) });

export function onToken(listener) {
  listeners.push(listener);
}

/** What luigid refused, or that it cannot be reached: `status` 0. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function ask(method, path, query, body) {
  const address = new URL(path.map(encodeURIComponent).join("/"), ROOT);
  for (const [name, value] of Object.entries(query || {})) {
    if (value !== "" && value !== null && value !== undefined) {
      address.searchParams.set(name, value);
    }
  }
  // Authorization is the proxy's that may stand before luigid.
  const headers = token ? { "X-Spendguard-Token": token } : {};
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
  }
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), TIMEOUT_MS);
  let reply, said;
  try {
    reply = await fetch(address, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body),
      signal: stop.signal, credentials: "same-origin", cache: "no-store",
    });
    said = await reply.text();
  } catch {
    throw new ApiError(0, "unreachable", "luigid does not answer.");
  } finally {
    clearTimeout(timer);
  }
  let found = null;
  try {
    found = JSON.parse(said);
  } catch {
    throw new ApiError(reply.status, "unreadable", `luigid's answer (HTTP ${reply.status}) is not JSON.`);
  }
  if (!reply.ok) {
    throw new ApiError(reply.status, found.error, found.message || `HTTP ${reply.status}`);
  }
  const next = reply.headers.get("X-Next-Before");
  return { found, total: Number(reply.headers.get("X-Total-Count")),
    next: next === null ? null : decodeURIComponent(next) };
}

export const get = async (path, query) => (await ask("GET", path, query)).found;
export const page = (path, query) => ask("GET", path, query);
export const post = async (path, body) => (await ask("POST", path, null, body)).found;
export const del = async (path) => (await ask("DELETE", path)).found;

/** Return an id for a change: sent again with it, the change counts once. */
export function requestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
