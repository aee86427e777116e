// What a pool is expected to hold in the next hours: a chart for one of its resources.

import { HIGH, WIDE, chart, legend, stepArea, stepLine, svg, timeTicks } from "/static/chart.js";
import { amountText, count, el, hourAndMinute, plural, setChildren, setText, span } from "/static/format.js";

const MOST_SECONDS = 12 * 3600;
const LEAST_SECONDS = 180;
const LARGE = 0.1; // of the largest one

/** When nothing is held and nothing waits any more; null: not within the forecast. */
function emptyAt(course) {
  const names = Object.keys(course.running);
  let last = course.at.length - 1;
  while (last >= 0 && !course.waiting[last] && names.every((name) => !course.running[name][last] && !course.planned[name][last])) last -= 1;
  return last + 1 < course.at.length ? course.at[last + 1] : null;
}

/** Whether nothing is held, waits or is planned within what a chart shows, and no maintenance is near. */
function isQuiet(course, now) {
  return !(course.maintenance ?? []).length && course.at.every((at, index) => at > now + MOST_SECONDS || (!course.waiting[index] && Object.keys(course.running).every((each) => !course.running[each][index] && !course.planned[each][index])));
}

/** Where the chart ends: soon after the last large change, seen from how it is at the end of the look. What goes on for ever, such as a schedule, makes no axis long. */
function reach(course, now) {
  const last = course.at.length - 1;
  const names = Object.keys(course.running);
  const off = (name, index) => Math.abs(course.running[name][index] + course.planned[name][index] - course.running[name][last] - course.planned[name][last]);
  const near = course.at.map((at, index) => index).filter((index) => course.at[index] < now + MOST_SECONDS);
  const most = Object.fromEntries(names.map((name) => [name, Math.max(...near.map((index) => off(name, index)))]));
  const isLarge = (index) => course.waiting[index] !== course.waiting[last] || names.some((name) => most[name] && off(name, index) >= LARGE * most[name]);
  const large = near.findLast(isLarge);
  const ends = large === undefined ? now : course.at[large + 1] ?? now + MOST_SECONDS;
  return Math.min(now + MOST_SECONDS, Math.max(now + LEAST_SECONDS, now + (ends - now) * 1.06));
}

/** The resource of which the largest part is held at some time. */
function dominant(course) {
  const part = (name) => Math.max(0, ...course.running[name].map((amount, index) => amount + course.planned[name][index])) / (course.capacity[name] || 1);
  return Object.keys(course.running).reduce((best, name) => (best === "" || part(name) > part(best) ? name : best), "");
}

/** The part of a pool's card that looks ahead. */
export class CoursePart {
  #pool; #chosen = ""; #buttons; #drawing; #told; #legend; #notes; #shown = null;

  constructor(pool) {
    this.#pool = pool;
    this.#buttons = el("div", { class: "resources", role: "group", "aria-label": `Resource of ${pool} to show` });
    this.#drawing = el("div");
    this.#told = el("p", { class: "chart-told" });
    this.#legend = el("ul", { class: "chart-legend", "aria-hidden": "true" });
    this.#notes = el("p", { class: "muted chart-note", hidden: true });
    this.element = el("section", { class: "ahead", hidden: true, "aria-label": `Next hours of ${pool}` },
      el("div", { class: "part-head" }, el("h3", {}, "Next hours"), this.#buttons), this.#drawing, this.#told, this.#legend, this.#notes);
  }

  /** Shows what is expected, of a whole forecast; null: nothing is. */
  show(forecast) {
    const course = forecast?.pools[this.#pool];
    const isKnown = course !== undefined && course.at.length > 0 && Object.keys(course.running).length > 0;
    // where nothing is to come at all, there is nothing to show
    this.element.hidden = !isKnown || (isQuiet(course, forecast.now) && emptyAt(course) !== null && !forecast.endless[this.#pool]?.length);
    if (this.element.hidden) { this.#shown = null; return; }
    this.#shown = { course, endless: forecast.endless[this.#pool] ?? [], now: forecast.now, until: forecast.until };
    const names = Object.keys(course.running);
    setChildren(this.#buttons, names, () => (names.length < 2 ? [] : names.map((name) => {
      const button = el("button", { type: "button", value: name }, name);
      button.addEventListener("click", () => { this.#chosen = name; this.#draw(); });
      return button;
    })));
    this.#draw();
  }

  #draw() {
    const { course, endless, now, until } = this.#shown;
    const name = this.#chosen in course.running ? this.#chosen : dominant(course);
    for (const button of this.#buttons.children) button.setAttribute("aria-pressed", String(button.value === name));
    const empty = emptyAt(course);
    const beyond = empty === null || empty > now + MOST_SECONDS;
    const isIdle = isQuiet(course, now);
    this.#buttons.hidden = this.#legend.hidden = isIdle;
    setChildren(this.#drawing, [name, isIdle, course, now], () => (isIdle ? [] : this.#chart(name)));
    if (isIdle) setText(this.#told, beyond ? `Nothing in the next ${span(MOST_SECONDS)}.` : "Nothing runs, waits or is planned.");
    const notes = [];
    if (endless.length) notes.push(`Nothing tells how long ${endless[0]}${endless.length > 1 ? ` and ${count(endless.length - 1)} more` : ""} will take.`);
    if (beyond) notes.push(until < now + MOST_SECONDS - 60 ? `No further than ${hourAndMinute(until)} was looked ahead.` : "More after that.");
    this.#notes.hidden = !notes.length;
    setText(this.#notes, notes.join(" "));
  }

  #chart(name) {
    const { course, now } = this.#shown;
    const empty = emptyAt(course);
    const to = reach(course, now);
    const kept = course.at.map((at, index) => index).filter((index) => course.at[index] < to);
    const x = (at) => (WIDE * Math.min(1, Math.max(0, (at - now) / (to - now))));
    const xs = kept.map((index) => x(course.at[index]));
    const running = kept.map((index) => course.running[name][index]);
    const held = kept.map((index) => course.running[name][index] + course.planned[name][index]);
    const capacity = course.capacity[name] ?? 0;
    const guaranteed = course.guaranteed?.[name] ?? 0;
    const top = Math.max(capacity, ...held, 1);
    const y = (amount) => 8 + (HIGH - 8) * (1 - amount / top);
    const windows = (course.maintenance ?? []).filter((each) => each.starts_at < to);
    const level = (kind, amount) => svg("path", { class: kind, d: `M0 ${y(amount)}H${WIDE}` });
    const drawing = [
      svg("path", { class: "planned", d: stepArea(xs, running, held, WIDE, y) }),
      svg("path", { class: "running", d: stepArea(xs, running.map(() => 0), running, WIDE, y) }),
      svg("path", { class: "planned-edge", d: stepLine(xs, held, WIDE, y) }),
      ...windows.map((each) => svg("rect", { class: "maintenance", x: x(each.starts_at), y: 0, width: Math.max(2, x(each.ends_at) - x(each.starts_at)), height: HIGH })),
      level("capacity", capacity), guaranteed ? level("guaranteed", guaranteed) : "",
    ];
    const text = (amount) => amountText(name, amount);
    const most = held.reduce((best, amount, index) => (amount > held[best] ? index : best), 0);
    const ends = empty === null || empty > now + MOST_SECONDS ? "" : empty <= now ? "nothing is planned" : `empty at ${hourAndMinute(empty)}, in ${span(empty - now)}`;
    const summary = [
      `Now ${text(held[0])} of ${text(capacity)}`, held[most] > held[0] ? `most ${text(held[most])} at ${hourAndMinute(course.at[kept[most]])}` : "", ends,
    ].filter(Boolean).join(" · ");
    const words = `${name} of pool ${this.#pool} in the next ${span(to - now)}. ${summary}. ${plural(course.waiting[0], "task")} in the queue now.`
      + (guaranteed ? ` ${text(guaranteed)} are guaranteed.` : "") + windows.map((each) => ` Maintenance from ${hourAndMinute(each.starts_at)} to ${hourAndMinute(each.ends_at)}${each.reason ? `: ${each.reason}` : ""}.`).join("");
    setText(this.#told, summary);
    const made = chart(words, drawing, { top: text(top), ticks: timeTicks(now, to) });
    made.addEventListener("pointermove", (event) => {
      const box = made.querySelector("svg").getBoundingClientRect();
      const at = now + (to - now) * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      const index = kept.findLast((each) => course.at[each] <= at) ?? kept[0];
      setText(this.#told, `${hourAndMinute(at)}: ${text(course.running[name][index])} of what runs now · ${text(course.planned[name][index])} planned · ${count(course.waiting[index])} in the queue`);
    });
    made.addEventListener("pointerleave", () => setText(this.#told, summary));
    setChildren(this.#legend, [guaranteed > 0, windows.length > 0], () => [legend("running", "runs now"), legend("planned", "planned"), legend("capacity", "capacity"),
      ...(guaranteed ? [legend("guaranteed", "guaranteed")] : []), ...(windows.length ? [legend("maintenance", "maintenance")] : [])]);
    return [made];
  }
}
