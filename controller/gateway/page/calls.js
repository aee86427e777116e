// The calls of the gateway that sign in, sign out, and change something. What only reads is asked by live.js.

import { ask, parsed } from "/static/live.js";

let entered = ""; // the name of whom the page shows
let csrf = ""; // of the session; no call that changes something goes without it

/** Whose page it is. Throws Error, with status 401 if nobody has signed in. */
export async function session() {
  const found = await ask("/session");
  csrf = found.csrf;
  return found;
}

/** The page is this caller's from now on. */
export function enterAs(name) { entered = name; }

/** Keep the token in a cookie that no script can read. Throws Error with what is wrong. */
export async function signIn(token) {
  if (!/^[!-~]+$/.test(token)) throw new Error("A token has letters, digits and signs, and no spaces.");
  const found = await call("POST", "/session", undefined, { Authorization: `Bearer ${token}` });
  csrf = found.csrf;
  return found;
}

export async function signOut() { await call("DELETE", "/session"); }

/** Ask for a change, as who has entered. Throws Error with the problem's words, and its status. */
export async function change(path, body) {
  const found = await session(); // another tab may have signed in since
  if (found.name !== entered) throw new Error(`${found.name} has signed in in another tab: reload the page`);
  return await call("POST", path, body);
}

async function call(method, path, body, headers = {}) {
  const answer = await fetch(path, {
    method,
    headers: { Accept: "application/json", "Content-Type": "application/json", "X-Tally-CSRF": csrf, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!answer.ok) throw await problem(answer);
  return answer.status === 204 ? null : parsed(await answer.text());
}

/** An answer to be read as it comes. Throws Error, with a status if the gateway refused. */
export async function opened(path, signal) {
  const answer = await fetch(path, { signal });
  if (!answer.ok) throw await problem(answer);
  return answer;
}

/** Whether the gateway hears from etcd. */
export async function isReady() { return (await fetch("/readyz")).ok; }

async function problem(answer) {
  const document = await answer.json().catch(() => ({}));
  const error = new Error(document.detail ?? `HTTP ${answer.status}`);
  error.status = answer.status;
  return error;
}
