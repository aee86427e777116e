// The neighbourhood of a task as a drawing: what it waits for on the left, what waits for it on the right.

import { ask } from "/static/live.js";
import { el, plural } from "/static/format.js";

const DRAWN = 60;
const WIDTH = 168, HEIGHT = 40, GAP_X = 56, GAP_Y = 14, MARGIN = 4, LETTERS = 20;
const SVG = "http://www.w3.org/2000/svg";
const VERDICTS = { met: "has ended as wanted", unfinished: "has not ended", partly: "has not ended, but members of it have", unmet: "has ended otherwise than wanted", unknown: "does not exist", "": "had ended as wanted when it began" };

/** What is around a task, as far as it can be drawn; null if it waits for nothing and nothing waits for it. */
export async function neighboursOf(id) {
  const found = await ask(`/v1/tasks/${encodeURIComponent(id)}/neighbours?depth=3&limit=${DRAWN}`);
  return found.nodes.length > 1 || found.hidden ? found : null;
}

/** Each node's column: the longest way to it from a node that waits for nothing. Edges that would close a circle are left out. */
export function columnsOf(nodes, edges) {
  const before = new Map(nodes.map((node) => [node.id, []]));
  for (const edge of edges) before.get(edge.to)?.push(edge.from);
  const columns = new Map(), open = new Set();
  for (const { id: start } of nodes) {
    const way = [start]; // no recursion: a chain may be long
    while (way.length) {
      const id = way.at(-1);
      open.add(id);
      const next = columns.has(id) ? undefined : before.get(id).find((parent) => !columns.has(parent) && !open.has(parent));
      if (next !== undefined) { way.push(next); continue; }
      if (!columns.has(id)) columns.set(id, Math.max(-1, ...before.get(id).map((parent) => columns.get(parent) ?? -1)) + 1);
      open.delete(id);
      way.pop();
    }
  }
  return columns;
}

/** The section of a task's details that draws its neighbourhood. */
export function drawing(found) {
  const columns = columnsOf(found.nodes, found.edges);
  const places = new Map(), rows = [];
  for (const { id } of found.nodes) {
    const column = columns.get(id);
    rows[column] = (rows[column] ?? 0) + 1;
    places.set(id, { x: MARGIN + column * (WIDTH + GAP_X), y: MARGIN + (rows[column] - 1) * (HEIGHT + GAP_Y) });
  }
  const width = 2 * MARGIN + rows.length * (WIDTH + GAP_X) - GAP_X;
  const height = 2 * MARGIN + Math.max(...rows) * (HEIGHT + GAP_Y) - GAP_Y;
  const picture = svg("svg", { class: "graph", viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": `Tasks around ${found.id}` },
    svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 8, markerHeight: 8, orient: "auto" }, svg("path", { d: "M0 0 8 4 0 8z" }))),
    ...found.edges.map((edge) => arrow(edge, places.get(edge.from), places.get(edge.to))),
    ...found.nodes.map((node) => box(node, places.get(node.id), node.id === found.id)));
  const more = [
    found.member ? `This is the neighbourhood of ${found.id}, of which ${found.member} is a member.` : "",
    found.truncated ? `These are the nearest ${DRAWN}, and there are more.` : found.deeper ? "There are more behind these." : "",
    found.hidden ? `${plural(found.hidden, "task")} that you may not read ${found.hidden === 1 ? "is" : "are"} left out.` : "",
  ].filter(Boolean).join(" ");
  return el("section", { class: "neighbours" }, el("h3", {}, "Waits for, and is waited for by"),
    el("div", { class: "graph-frame", tabIndex: 0, role: "region", "aria-label": "Drawing of the tasks around this one" }, picture),
    more ? el("p", { class: "muted" }, more) : "",
    el("details", {}, el("summary", {}, "In words"), el("ul", { class: "edges" }, ...found.edges.map((edge) => el("li", {}, words(edge))))));
}

function words(edge) {
  const [each, its] = edge.index === "same" ? ["Each member of ", "the member of its index of "] : ["", ""];
  return `${each}${edge.to} runs after ${its}${edge.from} ${edge.when === "finished" ? "has finished" : `has ${edge.when}`}: ${edge.from} ${VERDICTS[edge.verdict] ?? edge.verdict}.`;
}

function arrow(edge, from, to) {
  const [x1, y1, x2, y2] = [from.x + WIDTH, from.y + HEIGHT / 2, to.x - 1, to.y + HEIGHT / 2];
  const middle = (x1 + x2) / 2;
  return svg("path", {
    class: "edge", "data-verdict": edge.verdict, "data-from": edge.from, "data-to": edge.to, "aria-hidden": "true",
    d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`, "marker-end": "url(#arrow)",
  }, svg("title", {}, words(edge)));
}

function box(node, { x, y }, isOwn) {
  const state = node.exists ? node.state ?? "Unreadable" : "Unknown";
  const name = node.id.length > LETTERS ? `${node.id.slice(0, LETTERS - 1)}…` : node.id;
  const parts = [
    svg("title", {}, `${node.id}: ${state}${node.reason ? `, ${node.reason}` : ""}`),
    svg("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 7 }),
    svg("circle", { cx: x + 14, cy: y + 14, r: 4.5 }),
    svg("text", { x: x + 25, y: y + 18 }, name),
    svg("text", { class: "state", x: x + 25, y: y + 33 }, state),
  ];
  const about = { class: "node", "data-tone": state, "data-task": node.id };
  if (isOwn || !node.exists) return svg("g", { ...about, class: isOwn ? "node own" : "node" }, ...parts);
  return svg("a", { ...about, href: `#${new URLSearchParams({ task: node.id })}`, "aria-label": `${node.id}, ${state}` }, ...parts);
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
