// What happened in a pool in the last hour: its queue, what ended, and how long owners waited.

import { HIGH, WIDE, chart, legend, stepArea, stepLine, svg } from "/static/chart.js";
import { clock, count, el, hourAndMinute, plural, setChildren, span } from "/static/format.js";

const HOUR = 3600;
const LEAST_SECONDS = 900; // that a chart shows, also where less is known
const MINUTE = 60;
const STATES = ["Succeeded", "Cancelled", "Failed"]; // from the ground up
const SHOWN_OWNERS = 5;

function sum(numbers) { return numbers.reduce((total, number) => total + number, 0); }

/** The part of a pool's card that looks back. */
export class HourPart {
  constructor(pool) {
    this.pool = pool;
    this.element = el("section", { class: "hour", hidden: true, "aria-label": `Last hour of ${pool}` });
  }

  /** Shows what is known; null: nothing is. */
  show(view) {
    const hour = view?.pools[this.pool];
    this.element.hidden = hour === undefined;
    if (hour === undefined) return;
    setChildren(this.element, [hour, view.minutes, view.missed_at], () => [
      el("div", { class: "part-head" }, el("h3", {}, "Last hour"), el("span", { class: "muted" }, since(view))),
      hour.queued.length ? el("div", { class: "pair" }, queueChart(this.pool, hour, view.minutes), endChart(this.pool, hour, view.minutes)) : "",
      hour.waits.length ? waitsTable(this.pool, hour.waits) : "",
    ]);
  }
}

/** Since when is known what is shown, if that is not the whole hour, and what was missed. */
function since(view) {
  const parts = view.now - view.since < HOUR ? [`known since ${clock(view.since)}`] : [];
  if (view.missed_at !== null) parts.push(`some changes before ${clock(view.missed_at)} were missed`);
  return parts.join(", ");
}

/** How many seconds a chart of these minutes shows. */
function rangeOf(minutes) { return Math.max(LEAST_SECONDS, minutes.length * MINUTE); }

/** Where the minutes stand in a chart that ends with the last of them. */
function places(minutes) {
  const end = minutes.at(-1) + MINUTE;
  return minutes.map((at) => WIDE * (1 - (end - at) / rangeOf(minutes)));
}

function ticksOf(minutes) {
  const end = minutes.at(-1) + MINUTE;
  return [[0, hourAndMinute(end - rangeOf(minutes))], [0.5, hourAndMinute(end - rangeOf(minutes) / 2)], [1, "now"]];
}

function queueChart(pool, hour, minutes) {
  const seen = hour.queued.map((length, index) => [length, index]).filter(([length]) => length !== null);
  const lengths = seen.map(([length]) => length);
  const xs = seen.map(([, index]) => places(minutes)[index]);
  const top = Math.max(1, ...lengths);
  const y = (length) => 8 + (HIGH - 8) * (1 - length / top);
  const now = lengths.at(-1);
  const words = `Queue of ${pool} in the last hour: ${plural(now, "task")} now, at most ${count(Math.max(...lengths))}, at least ${count(Math.min(...lengths))}.`;
  return el("div", {}, el("p", { class: "figure" }, el("strong", {}, count(now)), " in the queue"),
    chart(words, [svg("path", { class: "queue", d: stepArea(xs, xs.map(() => 0), lengths, WIDE, y) }), svg("path", { class: "queue-edge", d: stepLine(xs, lengths, WIDE, y) })],
      { top: count(top), ticks: ticksOf(minutes) }));
}

function endChart(pool, hour, minutes) {
  const xs = places(minutes);
  const wide = (WIDE * MINUTE) / rangeOf(minutes);
  const totals = minutes.map((_, index) => sum(STATES.map((state) => hour.ended[state][index])));
  const top = Math.max(1, ...totals);
  const tall = (number) => ((HIGH - 8) * number) / top;
  const ground = minutes.map(() => 0);
  const bars = STATES.map((state) => {
    const path = hour.ended[state].map((number, index) => {
      if (!number) return "";
      const low = HIGH - tall(ground[index]);
      ground[index] += number;
      return `M${(xs[index] + wide / 10).toFixed(1)} ${low.toFixed(1)}V${(low - tall(number)).toFixed(1)}h${(0.8 * wide).toFixed(1)}V${low.toFixed(1)}Z`;
    }).join("");
    return svg("path", { class: "ended", "data-tone": state, d: path });
  });
  const numbers = STATES.map((state) => [state, sum(hour.ended[state])]).filter(([, number]) => number);
  const words = `Of ${pool} ended in the last hour: ${numbers.map(([state, number]) => `${count(number)} ${state}`).join(", ") || "nothing"}. ${plural(sum(hour.begun), "attempt")} begun. At most ${count(top)} in a minute.`;
  return el("div", {}, el("p", { class: "figure" }, el("strong", {}, count(sum(totals))), ` ended, ${count(sum(hour.begun))} begun`),
    chart(words, bars, { top: `${count(top)}/min`, ticks: ticksOf(minutes) }),
    el("ul", { class: "chart-legend", "aria-hidden": "true" }, ...numbers.map(([state, number]) => {
      const mark = legend("ended", `${count(number)} ${state}`);
      mark.dataset.tone = state;
      return mark;
    })));
}

function waitsTable(pool, waits) {
  const shown = [...waits].sort((a, b) => b.began - a.began).slice(0, SHOWN_OWNERS);
  return el("div", { class: "waits" }, el("table", { "aria-label": `Waits by owner in ${pool}` },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Waited"), ...["Begun", "Median", "Longest"].map((name) => el("th", { scope: "col", class: "number" }, name)))),
    el("tbody", {}, ...shown.map((each) => el("tr", {}, el("th", { scope: "row" }, each.owner || "other owners"),
      el("td", { class: "number" }, count(each.began)), el("td", { class: "number" }, span(each.median)), el("td", { class: "number" }, span(each.longest)))))),
  waits.length > shown.length ? el("p", { class: "muted" }, `and ${plural(waits.length - shown.length, "more owner")}`) : "");
}
