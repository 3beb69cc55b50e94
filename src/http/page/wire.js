// What goes to the hive and comes from it: the token, requests, event streams.

const TOKEN = "rbee-hive-token";
// A hive says something on each stream every 10 s.
const SILENCE_MS = 25_000;
const ANSWER_MS = 10_000;

// Kept for this tab; where the browser forbids that, for this page.
const drawer = (() => {
  try {
    return window.sessionStorage;
  } catch {
    const kept = new Map();
    return { getItem: (k) => kept.get(k) ?? null, setItem: (k, v) => kept.set(k, v), removeItem: (k) => kept.delete(k) };
  }
})();
let token = drawer.getItem(TOKEN);

function keepToken(text) {
  token = text;
  if (text === null) drawer.removeItem(TOKEN);
  else drawer.setItem(TOKEN, text);
}

// The hive answered, and the answer is no.
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, { method = "GET", headers = {}, signal = AbortSignal.timeout(ANSWER_MS) } = {}) {
  if (token !== null) headers = { ...headers, Authorization: `Bearer ${token}` };
  const answer = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new Refused(answer.status, body?.error?.message ?? `the hive answers ${answer.status}`);
}

// The events of a stream, as { id, event, data }, until it ends; the first one says that it is open. EventSource could not
// show the token.
// Throws where it breaks, or is silent for too long.
async function* events(path, lastId, stop) {
  const silence = new AbortController();
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(new Error("the stream is silent")), SILENCE_MS);
  };
  heard();
  try {
    const headers = lastId === null ? {} : { "Last-Event-ID": lastId };
    const answer = await ask(path, { headers, signal: AbortSignal.any([stop, silence.signal]) });
    yield { id: null, event: "open", data: null };
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let [rest, event] = ["", { id: null, data: null }];
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard();
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const colon = line.indexOf(":");
        if (line === "") {
          if (event.data !== null) yield event;
          event = { id: null, data: null };
        } else if (colon > 0) {
          const field = line.slice(0, colon);
          const value = line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
          event[field] = field === "data" && event.data !== null ? `${event.data}\n${value}` : value;
        }
      }
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}
