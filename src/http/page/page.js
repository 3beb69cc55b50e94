// What is known of the hive: kept by its events and, for what has none, by asking again.

const POLL_MS = 5000;
const TICK_MS = 1000;
const DRAW_MS = 250;
const NEWS_MS = 2000;
const BACKOFF_MAX_MS = 15_000;
// How long a hive keeps what ended: workers' logs, results of downloads.
const KEPT_MS = 600_000;
const ENDED_MAX = 20;

const hive = { about: null, status: "", workers: new Map(), ended: new Map(), downloads: new Map() };
// When an event told of something: an answer that was asked for earlier knows less.
const toldAt = new Map();
let lastId = null;
let skew = 0;
let isPolling = false;

// The line to the hive. While it is down: since when, why, and when it is tried again.
let line = new AbortController();
let [isLost, failures, heardAt, figuresAt, retryAt, refusal] = [false, 0, 0, 0, 0, ""];
let isAsked = false;
let wake = () => {};

let [drawing, drawnAt] = [null, 0];
let news = [];

// Draws soon, at most four times a second, and not where nobody looks.
function changed() {
  if (document.hidden) return;
  drawing ??= setTimeout(() => {
    [drawing, drawnAt] = [null, Date.now()];
    draw();
  }, drawnAt + DRAW_MS - Date.now());
}

function draw() {
  drawLine();
  if (hive.about === null) return;
  // Where the hive is lost, times stand still with all else.
  const now = isLost ? heardAt : Date.now();
  for (const kept of [hive.ended, hive.downloads]) {
    for (const [id, { endedAt }] of kept) if (now - endedAt > KEPT_MS) kept.delete(id);
  }
  drawHive(hive, now + skew);
  drawDevices(hive);
  const told = drawWorkers(hive, now + skew);
  drawDownloads(hive);
  drawEnded(hive);
  document.title = `${isLost ? "lost: " : ""}${hive.about.hive_id} · ${told || "no workers"}`;
  if ($("shown").hidden) performance.mark("drawn");
  show($("shown"), true);
}

function drawLine() {
  const isOld = hive.about !== null && Date.now() - figuresAt > 2 * POLL_MS;
  const word = isLost ? "not connected" : hive.about === null ? ($("entry").hidden ? "" : "locked") : isOld ? `live, figures of ${clock(figuresAt)}` : "live";
  say($("line"), word);
  classes($("line"), isLost || isOld ? "line bad" : "line live");
  show($("lost"), isLost);
  classes(document.body, isLost ? "old" : "");
  show($("forget"), token !== null);
  if (!isLost) return;
  const what = refusal ? `The hive refuses to be followed: ${refusal}` :
    heardAt === 0 ? "This page does not reach the hive." :
      `This page lost the hive: nothing was heard of it since ${clock(heardAt)}.`;
  say($("lost-text"), heardAt === 0 ? what : `${what} What is shown is as it was ${refusal ? `at ${clock(heardAt)}` : "then"}.`);
  const left = Math.ceil((retryAt - Date.now()) / 1000);
  say($("lost-next"), left > 0 ? `Next try in ${left} s.` : "Trying again.");
}

// For who listens: what began, became ready or ended; not what moves all the time.
function tell(text) {
  news.push(text);
  if (news.length > 1) return;
  setTimeout(() => {
    $("news").textContent = news.length > 4 ? `${news.length} changes. ${$("workers-note").textContent}` : news.join(" ");
    news = [];
  }, NEWS_MS);
}

function onWorker(worker) {
  const id = worker.worker_id;
  const before = hive.workers.get(id);
  toldAt.set(id, performance.now());
  if (worker.state === "gone") {
    hive.workers.delete(id);
    hive.ended.set(id, { worker, endedAt: Date.now() });
    if (hive.ended.size > ENDED_MAX) hive.ended.delete(hive.ended.keys().next().value);
    return tell(`Worker ${id} ${why(worker.exit)}.`);
  }
  hive.workers.set(id, worker);
  if (!before) tell(`Worker ${id} is new.`);
  else if (worker.phase === "backoff" && before.phase !== "backoff") tell(`Worker ${id} ${why(worker.exit)}. It is started again.`);
  else if (worker.state === "ready" && before.state === "spawning") tell(`Worker ${id} is ready.`);
  else if (worker.state === "stopping" && before.state !== "stopping") tell(`Worker ${id} is stopping.`);
}

function onDownload(download) {
  const [id, isOver] = [download.download_id, ["complete", "error"].includes(download.stage)];
  toldAt.set(id, performance.now());
  hive.downloads.set(id, isOver ? { ...download, endedAt: Date.now() } : download);
  if (isOver) tell(download.stage === "complete" ? "A download is complete." : `A download failed: ${download.message}`);
}

// Makes `known` what `items` say, but for what ended and what an event told after `askedAt`.
function merge(known, items, key, askedAt) {
  const isNewer = (id) => toldAt.get(id) > askedAt;
  const ids = new Set(items.map(key));
  for (const [id, { endedAt }] of known) if (!ids.has(id) && !isNewer(id) && !endedAt) known.delete(id);
  for (const item of items) if (!isNewer(key(item))) known.set(key(item), item);
}

// The whole picture in one answer.
async function poll() {
  const [askedAt, shown] = [performance.now(), token];
  const answer = await ask("/v1/status");
  const about = await answer.json();
  if (token !== shown) return;
  const ahead = Date.parse(answer.headers.get("Date")) - Date.now();
  skew = Math.abs(ahead) > 5000 ? ahead : 0;
  if (hive.about !== null && about.boot_id !== hive.about.boot_id) {
    // Another run of the hive counts its events anew.
    lastId = null;
    tell("The hive was started again.");
  }
  hive.about = about;
  hive.status = about.status;
  merge(hive.workers, about.workers, (worker) => worker.worker_id, askedAt);
  merge(hive.downloads, about.downloads, (download) => download.download_id, askedAt);
  for (const [id, at] of toldAt) if (at <= askedAt) toldAt.delete(id);
  heardAt = figuresAt = Date.now();
  changed();
}

// Follows the changes until the stream breaks.
async function follow() {
  for await (const { id, event, data } of events("/v1/events", lastId, line.signal)) {
    const told = JSON.parse(data);
    if (event === "open") [isLost, failures] = [false, 0];
    else if (event === "worker") onWorker(told);
    else if (event === "download") onDownload(told);
    else if (event === "hive") hive.status = told.status;
    if (id !== null) lastId = id;
    heardAt = Date.now();
    changed();
  }
  throw new Error("the stream ended");
}

async function stayConnected() {
  for (;;) {
    if (document.hidden) await new Promise((go) => (wake = go));
    line = new AbortController();
    isAsked = false;
    try {
      await poll();
      await follow();
    } catch (error) {
      if (error.status === 401) await askForToken(error.message);
      else if (!isAsked) {
        failures += 1;
        const wait = Math.min(BACKOFF_MAX_MS, 500 * 2 ** failures) * (0.8 + 0.4 * Math.random());
        [isLost, retryAt] = [true, Date.now() + wait];
        refusal = error instanceof Refused ? sentence(error.message) : "";
        changed();
        await new Promise((go) => {
          wake = go;
          setTimeout(go, wait);
        });
      }
    }
  }
}

// Begins the connection anew, now.
function reconnect() {
  isAsked = true;
  line.abort();
  wake();
}

// What has no events, and the times that go by.
async function tick() {
  if (document.hidden) return;
  if (isLost || Date.now() - drawnAt > 1.5 * TICK_MS) changed();
  if (isPolling || isLost || hive.about === null || Date.now() - figuresAt < POLL_MS - TICK_MS / 2) return;
  isPolling = true;
  try {
    await poll();
  } catch (error) {
    if (error.status === 401) reconnect();
  } finally {
    isPolling = false;
  }
}

document.addEventListener("visibilitychange", () => {
  // A browser gives a hive six connections: a tab that nobody sees must not hold one.
  reconnect();
  changed();
});
window.addEventListener("online", reconnect);
$("retry").addEventListener("click", reconnect);
setInterval(tick, TICK_MS);
stayConnected();
