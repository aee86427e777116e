// Words, numbers and elements that all parts of the page share.

const numbers = new Intl.NumberFormat("en");
const clockTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const dayTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

const minuteTime = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hour12: false });
const dayMinute = new Intl.DateTimeFormat(undefined, { weekday: "short", hour: "2-digit", minute: "2-digit", hour12: false });
const LAST_DATE = 8.64e15; // in milliseconds; https://tc39.es/ecma262/#sec-time-values-and-time-range
const BINARY = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

let skew = 0; // seconds by which the replica's clock is ahead of ours

/** The states, in the lifecycle's order, and what each means. */
export const MEANINGS = {
  Created: "Submitted: it waits for its turn and for free resources in its pool.",
  Pending: "Admitted: its resources are held, and its attempt is being started.",
  Running: "Its attempt was seen running.",
  WaitingRetry: "An attempt has failed; it waits for the next one.",
  Succeeded: "It has succeeded.",
  Failed: "It has failed, and is not retried.",
  Cancelled: "It was cancelled, and nothing of it runs.",
  Unreadable: "Its record cannot be read, so it is left alone.",
};
export const STATES = Object.keys(MEANINGS).slice(0, -1);

/** The worst of these freshness words. */
export function worst(...words) { return ["dead", "stale", "fresh"].find((word) => words.includes(word)); }

/** The replica said that it is `now` (seconds since the epoch): ages are counted by its clock. */
export function setNow(now) { skew = now - Date.now() / 1000; }

export function now() { return Date.now() / 1000 + skew; }

export function count(number) { return numbers.format(number); }

export function plural(number, noun) { return `${count(number)} ${noun}${number === 1 ? "" : "s"}`; }

/** Quantities by resource. */
export function quantities(amounts) { return Object.entries(amounts).map(([name, amount]) => `${name} ${amount}`).join(", "); }

/** A dominant share, with three significant digits; null: the owner holds something that the pool has no more. */
export function shareText(share) {
  if (share === null) return "beyond all";
  return share === 0 ? "0" : share >= 1000 ? share.toFixed(0) : share.toPrecision(3);
}

/** A duration with its two largest units, as the command line shows ages: 42s, 5m3s, 3h12m, 4d7h. */
export function span(seconds) {
  let rest = Math.max(0, Math.floor(seconds));
  if (rest < 60) return `${rest}s`;
  for (const [unit, size, small, smallSize] of [["d", 86400, "h", 3600], ["h", 3600, "m", 60], ["m", 60, "s", 1]]) {
    if (rest >= size) {
      const low = Math.floor((rest % size) / smallSize);
      return `${Math.floor(rest / size)}${unit}${low ? low + small : ""}`;
    }
  }
}

/** The date of a time in seconds; of one that no calendar has, the nearest that it has. */
export function dateOf(at) { return new Date(Math.min(Math.max(at * 1000 || 0, -LAST_DATE), LAST_DATE)); }

export function clock(at) { return clockTime.format(dateOf(at)); }

/** The time to the minute, with the day if it is another one than today. */
export function hourAndMinute(at) {
  const date = dateOf(at);
  const isToday = date.toDateString() === dateOf(now()).toDateString();
  return Math.abs(at - now()) > 6 * 86400 ? dateAndTime(at) : (isToday ? minuteTime : dayMinute).format(date);
}

/** An amount of a resource (milli-cpu, bytes, counts), short, as people write it. */
export function amountText(resource, amount) {
  const short = (number) => numbers.format(Number(number.toPrecision(number >= 1000 ? 4 : 3)));
  if (resource === "cpu") return short(amount / 1000);
  if (resource !== "memory" && resource !== "ephemeral-storage" && !resource.startsWith("hugepages-")) return count(amount);
  const power = amount ? Math.min(BINARY.length - 1, Math.floor(Math.log2(amount) / 10)) : 0;
  return `${short(amount / 1024 ** power)}${BINARY[power]}`;
}

export function dateAndTime(at) { return dayTime.format(dateOf(at)); }

/** An element with properties and children; texts never become markup. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("aria-") || name.startsWith("data-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

/** A text in which `words` between backquotes become code. */
export function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));
}

/** The time since something happened. The text updates itself, and the tooltip has the exact time. */
export function ago(at) {
  return el("time", { className: "ago", dateTime: dateOf(at).toISOString(), title: dateAndTime(at) }, span(now() - at));
}

/** For how many others a task waits, in place of its reason; "" if it does not, or if something else comes first. */
export function waitsFor(task) { return task.reason === "WaitsForTasks" ? `Waits for ${count(task.waits_for)}` : ""; }

/** Sets a text only if it differs, so that screen readers announce nothing twice and selections stay. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replaces an element's children only if the values that they were made of differ. */
export function setChildren(element, made, make) {
  const key = JSON.stringify(made);
  if (element.dataset.made === key) return;
  element.dataset.made = key;
  element.replaceChildren(...make());
}

/** A link to another replica's page, if its address is one; else its text. */
export function replicaLink(name, url) {
  return /^https?:\/\//.test(url) ? el("a", { href: url, rel: "noreferrer" }, name) : name;
}

export function badge(state, extra = "") {
  const word = state ?? "Unreadable";
  return el("span", { class: "badge", "data-tone": word, title: MEANINGS[word] }, word, extra);
}

setInterval(() => {
  for (const element of document.querySelectorAll("time.ago")) setText(element, span(now() - Date.parse(element.dateTime) / 1000));
}, 1000);
