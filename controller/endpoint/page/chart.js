// What all charts are made of: steps over time in an SVG that is stretched to its place, with labels beside it in HTML.

import { dateOf, el, hourAndMinute } from "/static/format.js";

export const WIDE = 1000; // of a drawing, in its own units
export const HIGH = 100;
const STEPS = [60, 300, 600, 900, 1800, 3600, 7200, 10800, 21600]; // between two labels of an axis, in seconds
const NAMESPACE = "http://www.w3.org/2000/svg";

/** An element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The path of values that hold from each x to the next one, the last until `end`. `y` places a value. */
export function stepLine(xs, values, end, y) {
  return xs.map((x, index) => `${index ? "H" : "M"}${round(x)} ${index ? "V" : ""}${round(y(values[index]))}`).join("") + `H${round(end)}`;
}

/** The area between two such lines. */
export function stepArea(xs, lows, highs, end, y) {
  const back = xs.map((x, index) => `V${round(y(lows[index]))}H${round(x)}`).reverse().join("");
  return `${stepLine(xs, highs, end, y)}${back}Z`;
}

/**
 * A chart: a drawing that `label` tells in a sentence. `top` stands at the height of the highest value, and `ticks` under it: places from 0 to 1, each with
 * its words.
 */
export function chart(label, drawing, { top = "", ticks = [] }) {
  const frame = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...drawing);
  const marks = ticks.map(([place, words]) => {
    const mark = el("span", { "data-edge": place < 0.06 ? "start" : place > 0.94 ? "end" : "" }, words);
    mark.style.left = `${round(100 * place)}%`;
    return mark;
  });
  return el("div", { class: "chart" }, el("span", { class: "chart-top", "aria-hidden": "true" }, top), frame, el("div", { class: "chart-ticks", "aria-hidden": "true" }, ...marks));
}

/** Labels at round times between two times, in seconds since the epoch, at most about `most`. */
export function timeTicks(from, to, most = 5) {
  const step = STEPS.find((seconds) => (to - from) / seconds <= most) ?? STEPS.at(-1);
  const offset = dateOf(from).getTimezoneOffset() * 60; // round by the reader's clock
  const ticks = [];
  for (let at = Math.ceil((from - offset) / step) * step + offset; at <= to; at += step) ticks.push([(at - from) / (to - from), hourAndMinute(at)]);
  return ticks;
}

/** A mark of a legend. */
export function legend(kind, words) { return el("li", { "data-kind": kind }, words); }

function round(number) { return Math.round(number * 10) / 10; }
