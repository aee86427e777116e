// The section of schedules, which both pages have: what is due next, and what became of the last ticks.

import { count, dateAndTime, el, plural, setChildren, setText } from "/static/format.js";

const $ = (id) => document.getElementById(id);

/** Some schedules, of so many; nothing where there are none. */
export function showSchedules(schedules, total) {
  $("schedules-card").hidden = !schedules.length;
  setChildren($("schedules"), schedules, () => schedules.map((one) => el("li", {},
    el("strong", {}, one.name),
    el("span", { class: one.problem ? "problem" : "muted-role" }, one.problem ? "cannot be read" : one.suspended ? "suspended" : one.waiting ? "waits" : one.next ? dateAndTime(one.next) : "never again"),
    el("span", { class: "muted" }, one.problem || `${one.cron} ${one.timezone}${one.last ? ` · ${one.last} (${dateAndTime(one.last_tick)})` : ""}${one.live ? ` · ${plural(one.live, "task")} not ended` : ""}`))));
  $("schedules-more").hidden = total <= schedules.length;
  setText($("schedules-more"), `The first ${count(schedules.length)} of ${plural(total, "schedule")}`);
}
