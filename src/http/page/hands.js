// What a person can do: show a token and forget it, stop a worker, read its log.

const LOG_LINES_MAX = 1000;
const LOG_LINE_MAX = 4000;
const LOG_RETRY_MS = 2000;

// Shows the form until it is filled in.
async function askForToken(message) {
  const wasWrong = token !== null;
  forget();
  show($("entry"), true);
  show($("lost"), false);
  say($("line"), "locked");
  say($("entry-error"), wasWrong ? sentence(message) : "");
  $("token").focus();
  await new Promise((go) => ($("entry").onsubmit = (event) => {
    event.preventDefault();
    const text = $("token").value.trim();
    // Nothing else can stand in a header.
    if (!/^[!-~]+$/.test(text)) return say($("entry-error"), "A token consists of visible ASCII characters, without blanks.");
    keepToken(text);
    go();
  }));
  $("token").value = "";
  show($("entry"), false);
}

// Forgets the token, and all that was seen with it.
function forget() {
  keepToken(null);
  [hive.about, lastId, isLost] = [null, null, false];
  for (const known of [hive.workers, hive.ended, hive.downloads, toldAt]) known.clear();
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  for (const id of ["workers", "ended", "downloads", "devices", "reasons", "facts"]) list($(id), [], String);
  for (const id of ["status", "news"]) say($(id), "");
  say($("hive"), document.title = "rbee-hive");
  for (const id of ["shown", "facts", "forget"]) show($(id), false);
}

$("forget").addEventListener("click", () => {
  forget();
  reconnect();
});

let chosen = "";
let reading = new AbortController();

function openStop(id) {
  const worker = hive.workers.get(id);
  if (!worker) return;
  chosen = id;
  say($("stop-title"), `Stop ${id}?`);
  const used = worker.state === "spawning" ? 0 : worker.slots_total - worker.slots_available;
  const busy = used > 0 ? `It is serving ${count(used, "request")}, which may be cut off.` : "It serves no request at the moment.";
  say($("stop-text"), `${worker.model_ref} on ${worker.device}. ${busy}`);
  say($("stop-error"), "");
  $("stop-force").checked = false;
  $("stop").showModal();
}

$("stop-yes").addEventListener("click", async () => {
  const force = $("stop-force").checked ? "?force=true" : "";
  try {
    await ask(`/v1/workers/${chosen}${force}`, { method: "DELETE" });
    $("stop").close();
  } catch (error) {
    say($("stop-error"), error instanceof Refused ? `The hive refuses: ${sentence(error.message)}` : "The hive does not answer.");
  }
});

function openLog(id) {
  chosen = id;
  say($("log-title"), `Log of ${id}`);
  show($("log-ask"), true);
  show($("log-shown"), false);
  $("log").showModal();
}

$("log-yes").addEventListener("click", () => {
  show($("log-ask"), false);
  show($("log-shown"), true);
  $("log-lines").focus();
  reading = new AbortController();
  readLog(chosen, reading.signal);
});

// The end of a log, and what is added to it, until `stop`.
async function readLog(id, stop) {
  const place = $("log-lines");
  const note = (text) => stop.aborted || say($("log-note"), text);
  let [after, lines, drawing] = [null, [], null];
  const flush = () => {
    drawing = null;
    if (stop.aborted) return;
    const isAtEnd = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
    place.append(...lines);
    lines = [];
    while (place.childNodes.length > LOG_LINES_MAX) place.firstChild.remove();
    if (isAtEnd) place.scrollTop = place.scrollHeight;
  };
  while (!stop.aborted) {
    try {
      note("The last lines, and new ones as they come.");
      for await (const { id: at, event, data, more } of events(`/v1/workers/${id}/logs?tail=200&follow=true`, after, stop)) {
        if (event === "open") continue;
        if (at === null && data === "[DONE]") return note("The log is at its end.");
        after = at;
        lines.push(data.length > LOG_LINE_MAX ? `${data.slice(0, LOG_LINE_MAX)} …\n` : more ? data : `${data}\n`);
        if (lines.length > LOG_LINES_MAX) lines.shift();
        drawing ??= setTimeout(flush, DRAW_MS);
      }
    } catch (error) {
      if (error instanceof Refused) return note(`The hive refuses: ${sentence(error.message)}`);
    }
    note("The hive was lost: the log goes on when it is there again.");
    await new Promise((go) => setTimeout(go, LOG_RETRY_MS));
  }
}

$("log").addEventListener("close", () => {
  reading.abort();
  $("log-lines").replaceChildren();
});
for (const [button, dialog] of [["stop-no", "stop"], ["log-no", "log"], ["log-close", "log"]]) {
  $(button).addEventListener("click", () => $(dialog).close());
}
for (const dialog of [$("stop"), $("log")]) {
  // The button that opened it may be gone with its row by now.
  dialog.addEventListener("close", () => document.activeElement === document.body && $("workers-title").focus());
}
