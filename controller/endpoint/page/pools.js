// The pools: what is held of each, what is to come, and what happened in the last hour.

import { CoursePart } from "/static/course.js";
import { MEANINGS, count, el, quantities, setChildren, setText, shareText } from "/static/format.js";
import { HourPart } from "/static/hour.js";

const USES = {
  Used: "Resource-hours since the beginning.",
  Lost: "Of what was used: while attempts were lost.",
  Stopping: "Of what was used: while attempts were being stopped.",
};
const MANY = 8; // pools, from which on they scroll in their own place
const $ = (id) => document.getElementById(id);

export class Pools {
  #cards = new Map();

  /** Shows the pools of a summary. Each card stays, so that what is chosen in it stays, too. */
  show(summary) {
    $("pools-empty").hidden = summary.pools.length > 0;
    $("pools-more").hidden = summary.pools_total <= summary.pools.length;
    setText($("pools-more"), `${count(summary.pools_total - summary.pools.length)} more: tally get pools`);
    const cards = new Map(summary.pools.map((pool) => [pool.name, this.#cards.get(pool.name) ?? new PoolCard(pool.name)]));
    for (const pool of summary.pools) cards.get(pool.name).show(pool);
    this.#cards = cards;
    $("pools").toggleAttribute("data-many", cards.size > MANY);
    setChildren($("pools"), [...cards.keys()], () => [...cards.values()].map((card) => card.element));
  }

  /** Shows the last forecast and the last hour; null: there is none. */
  showAround(forecast, hour) {
    for (const card of this.#cards.values()) card.showAround(forecast, hour);
  }
}

class PoolCard {
  #state = el("div", { class: "pool-now" }); #owners = el("div", { class: "pool-owners" }); #course; #hour;

  constructor(name) {
    this.#course = new CoursePart(name);
    this.#hour = new HourPart(name);
    this.element = el("div", { class: "pool" }, this.#state, el("div", { class: "pool-around" }, this.#course.element, this.#hour.element), this.#owners);
  }

  show(pool) {
    setChildren(this.#state, [pool.resources, pool.tasks, pool.on_hold, pool.lost, pool.paused, pool.defined], () => [
      el("div", { class: "pool-head" }, el("strong", {}, pool.name), el("span", { class: "muted" }, ...poolNote(pool))), ...pool.resources.map(resourceBar),
    ]);
    setChildren(this.#owners, [pool.owners, pool.owners_total], () => (pool.owners.length ? [ownersTable(pool)] : []));
  }

  showAround(forecast, hour) {
    this.#course.show(forecast);
    this.#hour.show(hour);
  }
}

/** Numbers of tasks by state, under the states' own names. */
export function stateCounts(tasks, states) {
  return states.flatMap((state, index) => [index ? " · " : "", el("span", { title: MEANINGS[state] }, `${count(tasks[state] ?? 0)} ${state}`)]);
}

/** The owners of a pool with `sharing`. The bar is an owner's part of the resource of which it holds most. */
function ownersTable(pool) {
  const more = pool.owners_total - pool.owners.length;
  return el("div", { class: "owners" }, el("table", { "aria-label": `Owners of ${pool.name}` },
    el("thead", {}, el("tr", {}, ...["Owner", "Held", "Guarantee", "Limit"].map((name) => el("th", { scope: "col" }, name)),
      ...["Share", "Waiting"].map((name) => el("th", { scope: "col", class: "number" }, name)),
      ...["Used", "Lost", "Stopping"].map((name) => el("th", { scope: "col", title: USES[name] }, name)))),
    el("tbody", {}, ...pool.owners.map((owner) => el("tr", {},
      el("th", { scope: "row" }, owner.name),
      el("td", {}, quantities(owner.held) || "nothing", meter(`${owner.name} holds`, owner.part_held, 1, quantities(owner.held) || "nothing")),
      el("td", {}, quantities(owner.guarantee)), el("td", {}, quantities(owner.limit)),
      el("td", { class: "number" }, shareText(owner.share)),
      el("td", { class: "number" }, count(owner.waiting), owner.on_hold ? ` · ${count(owner.on_hold)} on hold` : ""),
      ...[owner.used_hours, owner.lost_hours, owner.stopping_hours].map((hours) => el("td", {}, quantities(hours))))))),
  more > 0 ? el("p", { class: "muted" }, `and ${count(more)} more: tally get owners --pool ${pool.name}`) : "");
}

function poolNote(pool) {
  const parts = stateCounts(pool.tasks, ["Running", "Pending", "Created", "WaitingRetry"].filter((state) => state === "Running" || pool.tasks[state]));
  if (pool.on_hold) parts.push(` · ${count(pool.on_hold)} on hold`);
  if (pool.lost) parts.push(` · ${count(pool.lost)} lost`);
  if (pool.paused) parts.unshift("paused · ");
  if (!pool.defined) parts.unshift("no longer defined · ");
  return parts;
}

/** A bar that is filled to `share`. */
function meter(label, value, most, text, share = value / most) {
  const fill = el("i");
  fill.style.width = `${(100 * share).toFixed(1)}%`;
  return el("div", {
    class: "bar", role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": most, "aria-valuenow": value, "aria-valuetext": text,
  }, fill);
}

function resourceBar(resource) {
  const over = resource.held_amount > resource.capacity_amount;
  const share = resource.capacity_amount ? Math.min(1, resource.held_amount / resource.capacity_amount) : Number(resource.held_amount > 0);
  const text = over ? `${resource.held} held of ${resource.capacity}: overcommitted` : `${resource.held} held, ${resource.free} free of ${resource.capacity}`;
  const bar = meter(`${resource.name} held`, resource.held_amount, Math.max(resource.capacity_amount, resource.held_amount), text, share);
  bar.toggleAttribute("data-over", over);
  return el("div", { class: "resource" }, el("div", { class: "resource-head" }, el("span", {}, resource.name), el("span", { class: "muted" }, text)), bar);
}
