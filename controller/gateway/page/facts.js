// A task as the gateway tells it, with the names that the pages' shared scripts use.

import { ask } from "/static/live.js";

/** What a row of the list shows. */
export function rowOf(task) {
  const kept = ["Created", "WaitingRetry"].includes(task.state) ? task.after.filter((parent) => parent.verdict === "unfinished") : [];
  return { ...task, waits_for: kept.length, lost_since: task.status?.lost_since ?? null, stopping: task.status?.stopping ?? "" };
}

/** What the section of schedules shows of one. */
export function scheduleOf(schedule) {
  const last = schedule.recent.at(-1);
  const times = last?.count > 1 ? ` ×${last.count}${last.more ? " or more" : ""}` : "";
  return {
    ...schedule,
    cron: schedule.definition?.cron ?? "", timezone: schedule.definition?.timezone ?? "",
    next: schedule.upcoming[0] ?? 0, live: schedule.live.length,
    last: last ? `${last.result}${times}${last.why ? `: ${last.why}` : ""}${last.task ? ` ${last.task}` : ""}` : "",
    last_tick: last?.tick ?? 0,
  };
}

/** A task, with its history and why it is where it is. Throws Error. */
export async function read(id) {
  const path = `/v1/tasks/${encodeURIComponent(id)}`;
  const task = await ask(path);
  const explained = await ask(`${path}/explain`);
  const status = task.status ?? {};
  return {
    ...rowOf(task),
    explanation: explained.text,
    requests: task.requests.map((kind) => ({ kind, by: "" })),
    resources: task.spec?.resources ?? {}, labels: task.spec?.labels ?? {},
    hold: status.hold ?? {}, node: status.node ?? "", exit_code: status.exit_code ?? null,
    started_at: status.started_at ?? null, finished_at: status.finished_at ?? null, retry_at: status.retry_at ?? null,
    history: status.history ?? [], steps: status.steps ?? 0,
  };
}
