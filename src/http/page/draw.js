// From what is known to what is seen. Text goes into text nodes alone, and what is there already is changed in its place:
// focus, selection and the place of the scroll bar stay.

const $ = (id) => document.getElementById(id);

function make(tag, props = {}, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function show(element, yes) {
  if (element.hidden === yes) element.hidden = !yes;
}

function classes(element, names) {
  if (element.className !== names) element.className = names;
}

// Makes `parent` hold one element for each of `items`, in their order, by `key`. `build` gives an element and a function
// that fills it. Items keep their order among each other, so nothing that stays is moved. Focus that was in what goes
// moves to `heading`.
function list(parent, items, key, build, heading) {
  const rows = (parent.kept ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, row] of rows) {
    if (wanted.has(name)) continue;
    const hadFocus = row.element.contains(document.activeElement);
    row.element.remove();
    rows.delete(name);
    if (hadFocus) heading?.focus();
  }
  items.forEach((item, at) => {
    const name = key(item);
    if (!rows.has(name)) rows.set(name, build(item));
    const row = rows.get(name);
    if (parent.children[at] !== row.element) parent.insertBefore(row.element, parent.children[at] ?? null);
    row.fill(item);
  });
}

// A list of terms, each with a text.
function terms(parent, pairs) {
  const build = ([term]) => {
    const text = make("dd");
    return { element: make("div", {}, make("dt", { textContent: term }), text), fill: ([, value]) => say(text, value) };
  };
  list(parent, pairs, ([term]) => term, build);
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = count < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(count) / 10));
  const value = count / 1024 ** step;
  return `${value.toFixed(step > 0 && value < 99.95 ? 1 : 0)} ${units[step]}`;
}

// Below a minute in steps of five seconds: texts that change each second are read by nobody, and each costs a frame.
function duration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const [minutes, hours, days] = [60, 3600, 86_400].map((unit) => Math.floor(seconds / unit));
  if (minutes < 1) return `${seconds - (seconds % 5)} s`;
  if (hours < 1) return `${minutes} min`;
  if (days < 1) return `${hours} h ${minutes % 60} min`;
  return `${days} d ${hours % 24} h`;
}

function ago(ms) {
  return ms < 5000 ? "just now" : `${duration(ms)} ago`;
}

function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

const REASONS = {
  exited: "exited by itself",
  signaled: "was ended by a signal",
  oom: "was killed by the kernel for want of memory",
  stopped: "was stopped on request",
  idle: "was idle for too long",
  drain: "was idle while the hive is drained",
  cascade: "ended with the hive",
  ready_timeout: "made no progress while it loaded",
  deaf: "was silent and deaf",
  launch_failed: "could not be launched",
  port_lost: "lost its port to another program",
  make_room: "made room for another worker",
  no_room: "got no room",
  download_failed: "got no model: its download failed",
};

// Why a run ended, for a person.
function why(exit) {
  if (!exit) return "for a reason that is not known";
  const how = exit.signal ?? (exit.code === null ? null : `exit code ${exit.code}`);
  return (REASONS[exit.reason] ?? exit.reason) + (how ? ` (${how})` : "") + (exit.message ? `: ${exit.message}` : "");
}

function drawHive(hive, now) {
  const { about, status } = hive;
  say($("hive"), about.hive_id);
  say($("status"), status);
  classes($("status"), `state ${status}`);
  const queen = about.queen;
  let heard = "none is configured";
  if (queen) {
    heard = queen.last_success_at ? ago(now - Date.parse(queen.last_success_at)) : "never";
    if (queen.failures_in_a_row > 0) heard += `, ${count(queen.failures_in_a_row, "failure")} since`;
  }
  const disk = about.devices.disk;
  terms($("facts"), [
    ["Address", about.url],
    ["Version", about.version],
    ["Up", duration(now - Date.parse(about.started_at))],
    [queen ? "Last heartbeat to the queen" : "Queen", heard],
    ["Models", `${about.devices.models}${disk ? `, ${bytes(disk.available_bytes)} of disk free` : ""}`],
  ]);
  show($("facts"), true);
  show($("wrong"), about.reasons.length > 0 || ["draining", "stopping"].includes(status));
  const states = {
    draining: "It is drained: its workers serve, and it takes no new ones.",
    stopping: "It is ending: its workers are being stopped.",
  };
  const reasons = about.reasons.map(({ code, message, since, count: times }) => ({
    code,
    text: sentence(message),
    note: [code, `since ${clock(Date.parse(since))}`, ...(times > 1 ? [`${times} times`] : [])].join(" · "),
  }));
  if (states[status]) reasons.unshift({ code: status, text: states[status], note: "" });
  const build = () => {
    const [text, note] = [make("span"), make("small")];
    const fill = (reason) => {
      say(text, reason.text);
      say(note, reason.note);
    };
    return { element: make("li", {}, text, note), fill };
  };
  list($("reasons"), reasons, (reason) => reason.code, build);
}

// A message of the hive, as a sentence.
function sentence(text) {
  return `${text[0]?.toUpperCase() ?? ""}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

// What of the promises on a device its workers have not taken yet. A GPU's part in the use of a worker is not told: one
// that serves has taken what it was promised.
function untaken(device, workers) {
  const open = workers.reduce((sum, worker) => {
    const devices = worker.device.split(",");
    if (!devices.includes(device.id)) return sum;
    const serves = worker.state === "ready" || worker.state === "busy";
    const taken = device.id === "cpu" ? (worker.memory_bytes ?? 0) : serves ? Infinity : 0;
    return sum + Math.max(0, worker.reserved_bytes / devices.length - taken);
  }, 0);
  return Math.min(open, device.promised, device.free);
}

function drawDevices(hive) {
  const { cpu, gpus, stale, age_s } = hive.about.devices;
  const workers = [...hive.workers.values()];
  const all = [
    { id: "cpu", name: count(cpu.cores, "core"), total: cpu.ram_total_bytes, free: cpu.ram_available_bytes,
      promised: cpu.promised_bytes ?? 0, notes: [] },
    ...gpus.map((gpu) => ({
      id: gpu.id, name: gpu.name, total: gpu.vram_total_bytes, free: gpu.vram_free_bytes, lost: gpu.lost,
      promised: gpu.promised_bytes ?? 0,
      notes: [
        gpu.backend,
        ...(gpu.utilization_percent === null ? [] : [`${gpu.utilization_percent} % busy`]),
        ...(gpu.temperature_c === null ? [] : [`${gpu.temperature_c} °C`]),
        ...(gpu.shared_memory ? ["uses the memory of the cpu"] : []),
      ],
    })),
  ];
  list($("devices"), all, (device) => device.id, buildDevice);
  $("devices").kept.forEach((row, id) => row.part(untaken(all.find((device) => device.id === id), workers)));
  say($("devices-note"), stale ? `A driver does not answer: the GPUs are shown as they were ${duration(age_s * 1000)} ago.` : "");
}

function buildDevice() {
  const [name, product, total] = [make("strong"), make("span"), make("span", { className: "total" })];
  const [amounts, notes] = [make("dl", { className: "amounts" }), make("p")];
  const [used, open] = [make("i", { className: "used" }), make("i", { className: "open" })];
  const bar = make("div", { className: "bar", ariaHidden: "true" }, used, open);
  const element = make("li", {}, make("h3", {}, name, " ", product, " ", total), bar, amounts, notes);
  let device;
  return {
    element,
    fill: (now) => {
      device = now;
      say(name, device.id);
      say(product, device.name);
      say(total, `${bytes(device.total)} in all`);
      say(notes, device.lost ? "Lost: it fell off the bus, or its driver says so." : device.notes.join(" · "));
      classes(element, device.lost ? "lost" : "");
    },
    part: (untaken) => {
      const taken = device.total - device.free;
      const width = (part) => `${device.total > 0 ? ((100 * part) / device.total).toFixed(1) : 0}%`;
      used.style.width = width(taken);
      open.style.width = width(untaken);
      terms(amounts, [
        ["Used", bytes(taken)],
        ["Promised, not taken", bytes(untaken)],
        ["Free", bytes(device.free - untaken)],
      ]);
    },
  };
}

function drawWorkers(hive, now) {
  const workers = [...hive.workers.values()].sort((a, b) => (a.worker_id < b.worker_id ? -1 : 1));
  const states = ["ready", "busy", "spawning", "stopping"];
  const counts = states.map((state) => [workers.filter((worker) => worker.state === state).length, state]);
  const told = counts.filter(([number]) => number > 0).map(([number, state]) => `${number} ${state}`);
  say($("workers-note"), told.join(" · ") || "None run here.");
  show($("workers-table"), workers.length > 0);
  const build = (worker) => buildWorker(hive, worker);
  list($("workers"), workers.map((worker) => ({ worker, now })), ({ worker }) => worker.worker_id, build, $("workers-title"));
  return told.join(", ");
}

function buildWorker(hive, { worker: { worker_id: id } }) {
  const cell = (label, className, ...children) => {
    const element = make("td", { className, role: "cell" }, ...children);
    element.dataset.label = label;
    return element;
  };
  const [kind, state, more, last] = [make("small"), make("span"), make("small"), make("small")];
  const [model, device] = [cell("Model", "model"), cell("Device", "")];
  const [promised, held] = [make("span"), make("small")];
  const [slots, memory] = [cell("Slots in use", "number"), cell("Memory promised", "number", promised, held)];
  const [uptime, restarts] = [cell("Uptime", "number"), cell("Restarts", "number")];
  const button = (text, open) => {
    const element = make("button", { type: "button", textContent: text, ariaLabel: `${text}: ${id}` });
    element.addEventListener("click", () => open(id));
    return element;
  };
  const name = make("th", { scope: "row", role: "rowheader" }, make("code", { textContent: id }), kind);
  const element = make("tr", { role: "row" }, name, model, device, cell("State", "", state, more, last), slots, memory,
    uptime, restarts, cell("", "actions", button("Log", openLog), button("Stop", openStop)));
  const fill = ({ worker, now }) => {
    say(kind, worker.kind);
    say(model, worker.model_ref);
    say(device, worker.device);
    say(state, worker.state);
    const sick = worker.health !== null && worker.health !== "healthy";
    classes(state, `state ${sick ? "sick" : worker.state}`);
    const fetch = hive.downloads.get(worker.download_id);
    const part = fetch?.bytes_total > 0 ? ` ${Math.floor((100 * fetch.bytes_downloaded) / fetch.bytes_total)} %` : "";
    say(more, [worker.phase === null ? "" : worker.phase + part, sick ? worker.health : ""].filter(Boolean).join(", "));
    say(last, worker.exit && worker.state !== "stopping" ? `The last run ${why(worker.exit)}` : "");
    const serves = worker.state === "ready" || worker.state === "busy";
    classes(last, serves ? "" : "bad");
    say(slots, `${serves ? worker.slots_total - worker.slots_available : "–"} / ${worker.slots_total}`);
    say(promised, bytes(worker.reserved_bytes));
    say(held, worker.memory_bytes === null ? "" : `${bytes(worker.memory_bytes)} resident`);
    say(uptime, worker.started_at === null || worker.pid === null ? "–" : duration(now - Date.parse(worker.started_at)));
    say(restarts, String(worker.restart_count));
    classes(restarts, worker.restart_count > 0 ? "number bad" : "number");
  };
  return { element, fill };
}

function drawDownloads(hive) {
  const downloads = [...hive.downloads.values()];
  show($("downloads-section"), downloads.length > 0);
  const users = (id) => [...hive.workers.values()].filter((worker) => worker.download_id === id);
  const build = () => {
    const [name, bar, text] = [make("strong"), make("progress", { max: 1 }), make("p")];
    const fill = (download) => {
      const waiting = users(download.download_id);
      if (download.file || waiting.length > 0) {
        say(name, [waiting[0]?.model_ref, download.file].filter(Boolean).join(" · "));
      } else if (name.textContent === "") say(name, download.download_id);
      bar.setAttribute("aria-label", name.textContent);
      show(bar, ["downloading", "verifying"].includes(download.stage));
      const { bytes_downloaded: here = 0, bytes_total: all = 0, speed_mbps: speed = 0, attempt } = download;
      bar.value = download.stage === "verifying" ? 1 : all > 0 ? here / all : 0;
      const leftMs = ((all - here) * 8) / (speed * 1000);
      const left = speed === 0 ? "waits for bytes" : leftMs < 5000 ? "almost done" : `${duration(leftMs)} left`;
      const words = {
        downloading: [`${bytes(here)} of ${bytes(all)}`, `${speed.toFixed(1)} Mbit/s`, left,
          ...(attempt > 1 ? [`attempt ${attempt}`] : []),
          ...(waiting.length > 0 ? [`for ${count(waiting.length, "worker")}`] : [])].join(" · "),
        verifying: "Its bytes are being checked.",
        complete: "Complete.",
        error: `Failed: ${download.message} (${download.code})`,
      };
      say(text, words[download.stage] ?? download.stage);
      classes(text, download.stage === "error" ? "bad" : "quiet");
    };
    return { element: make("li", {}, name, bar, text), fill };
  };
  list($("downloads"), downloads, (download) => download.download_id, build, $("downloads-title"));
}

function drawEnded(hive) {
  const ended = [...hive.ended.values()].reverse();
  show($("ended-section"), ended.length > 0);
  const build = ({ worker, endedAt }) => {
    const lines = (worker.exit?.log ?? []).join("\n");
    const button = make("button", { type: "button", textContent: "Log", ariaLabel: `Log: ${worker.worker_id}` });
    button.addEventListener("click", () => openLog(worker.worker_id));
    const element = make("li", {}, make("div", {}, make("code", { textContent: worker.worker_id }),
      ` on ${worker.device}, ${clock(endedAt)}: ${why(worker.exit)}. `, make("small", { textContent: worker.model_ref })), button);
    const failed = !["stopped", "idle", "drain", "cascade", "make_room"].includes(worker.exit?.reason);
    if (failed && lines) {
      element.append(make("details", {}, make("summary", { textContent: "Last lines" }),
        make("pre", { tabIndex: 0, textContent: lines })));
    }
    return { element, fill: () => {} };
  };
  list($("ended"), ended, ({ worker }) => worker.worker_id, build, $("ended-title"));
}
