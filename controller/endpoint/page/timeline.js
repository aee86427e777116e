// How long a task was in each state, and its history as a timeline, for the pages that show a task.

import { ago, badge, dateAndTime, el, now, span } from "/static/format.js";

export const FINAL = ["Succeeded", "Failed", "Cancelled"];
const EVENTS = {
  "admitted": "Admitted: resources are held", "rejected": "Rejected", "running-observed": "Observed running", "succeeded-observed": "Observed to have succeeded",
  "failed-observed": "Observed to have failed", "stop-requested": "Told to stop", "stopped-observed": "Observed to have stopped",
  "cancel-requested": "Cancelled while it waited", "retry-due": "To be retried", "retry-requested": "Retry requested", "noted": "Noted",
  "preempted": "Stopped for another task",
};

/** How long it was in each state, as shares of a bar and in words, by its kept history. */
export function durations(task) {
  const cut = task.steps > task.history.length;
  const known = [...(cut ? [] : [{ at: task.submitted_at, state: "Created" }]), ...task.history].filter((step) => step.at);
  const goesOn = !FINAL.includes(task.state);
  if (known.length && goesOn) known.push({ at: now() });
  const parts = known.slice(0, -1).map((step, index) => ({ state: step.state, seconds: Math.max(0, known[index + 1].at - step.at) }));
  const totals = new Map();
  for (const { state, seconds } of parts) totals.set(state, (totals.get(state) ?? 0) + seconds);
  if (!totals.size) return [];
  const shares = el("div", { class: "shares", "aria-hidden": "true" }, ...parts.map(({ state, seconds }) => {
    const share = el("i", { "data-tone": state, title: `${state} ${elapsed(seconds)}` });
    share.style.flexGrow = seconds;
    return share;
  }));
  const words = ([state, seconds]) => badge(state, el("span", { class: "muted" }, goesOn && state === task.state ? ago(now() - seconds) : elapsed(seconds)));
  return [shares, el("p", { class: "durations" }, ...[...totals].map(words))];
}

/** All kept steps, oldest first. `task` has submitted_at, steps (their number) and history. */
export function timeline(task) {
  const steps = [{ at: task.submitted_at, state: "Created", event: "", attempt: 0, reason: "", message: "", source: "" }, ...task.history];
  const cut = task.steps > task.history.length;
  const entries = steps.map((step, index) => {
    const before = index > 0 ? steps[index - 1].at : null;
    const meta = [step.attempt ? `attempt ${step.attempt}` : "", step.epoch ? `epoch ${step.epoch}` : "", step.reason].filter(Boolean).join(" · ");
    const what = step.event ? EVENTS[step.event] ?? step.event : "Submitted";
    return el("li", { "data-tone": step.state },
      el("div", { class: "when" }, el("strong", {}, what), step.event ? badge(step.state) : "",
        el("span", { class: "muted" }, step.at ? dateAndTime(step.at) : "", before && step.at ? ` (after ${elapsed(step.at - before)})` : "")),
      meta ? el("p", { class: "muted" }, meta) : "",
      step.message ? el("p", { class: "muted" }, step.message) : "");
  });
  if (cut) entries.splice(1, 0, el("li", {}, el("p", { class: "muted" }, `${task.steps - task.history.length} older steps are no longer kept`)));
  return el("ol", { class: "timeline" }, ...entries);
}

function elapsed(seconds) {
  if (seconds < 0) return "0s";
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : seconds < 10 ? `${seconds.toFixed(1)}s` : span(seconds);
}
