// What the page is tested on: the real hive with workers of rbee-mock, and Chromium. Everything it starts is ended by
// `close`, by process id.

import { spawn } from "node:child_process";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

const PROGRAMS = resolve(process.env.RBEE_PROGRAMS ?? "target/debug");
const MOCK = join(PROGRAMS, "rbee-mock");
export const SHOTS = resolve(process.env.RBEE_SHOTS ?? "target/page");
/** Long enough for any step on a loaded machine. */
export const PATIENCE_MS = 60_000;
export const MIB = 1 << 20;
export const GIB = 1 << 30;

const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

/** Looks until `look` gives something. */
export async function eventually(what, look) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > until) throw new Error(`did not happen: ${what}`);
    await new Promise((go) => setTimeout(go, 20));
  }
}

/** A port below those that the system gives to whoever connects. */
async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = createServer();
    const isFree = await new Promise((go) => server.once("error", () => go(false)).listen(port, "127.0.0.1", () => go(true)));
    await new Promise((go) => server.close(go));
    if (isFree) return port;
  }
}

/** What runs. A test that fails does not come to its end, so this process ends them with itself: SIGTERM also ends workers. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill()));

/** A program that says where it listens. */
class Program {
  static async start(path, args, env) {
    const program = new Program();
    program.said = "";
    program.child = spawn(path, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    program.ended = new Promise((go) => program.child.once("exit", go));
    let [isOver, out] = [false, ""];
    running.add(program.child);
    program.ended.then(() => {
      isOver = true;
      running.delete(program.child);
    });
    program.child.stderr.on("data", (bytes) => (program.said = (program.said + bytes).slice(-100_000)));
    program.child.stdout.on("data", (bytes) => (out += bytes));
    await eventually(`${path} listens`, () => {
      if (isOver) throw new Error(`${path} ended:\n${program.said}`);
      return out.includes(" listening on ");
    });
    program.url = out.split(" listening on ")[1].split(/\s/)[0];
    return program;
  }

  async end(signal = "SIGTERM") {
    this.child.kill(signal);
    await this.ended;
  }
}

/** Cards that a driver would tell of: the program that the hive asks where there is no NVML. */
function driver(cards) {
  const lines = cards.map(({ name, total, free, busy = 0, celsius = 40 }, at) =>
    `00000000:0${at + 1}:00.0, GPU-${at}, ${total}, ${free}, ${celsius}, ${busy}, [N/A], ${name}`);
  const users = cards.map(({ total, free }, at) => `GPU-${at}, 1, ${total - free}`);
  const print = (lines) => `cat <<'END'\n${lines.join("\n")}\nEND\n`;
  return `#!/bin/sh\ncase "$1" in\n--query-gpu=*) ${print(lines)};;\n--query-compute-apps=*) ${print(users)};;\nesac\n`;
}

export class Stage {
  static async open({ token = null, cards = [], hub = null, kinds = [], args = [], hiveId = "page" } = {}) {
    const stage = new Stage();
    stage.token = token;
    stage.programs = [];
    stage.folder = await mkdtemp(join(tmpdir(), "rbee-page-"));
    stage.models = join(stage.folder, "models");
    await mkdir(stage.models);
    const smi = join(stage.folder, "nvidia-smi");
    await writeFile(smi, driver(cards));
    await chmod(smi, 0o755);
    const mock = {
      kind: "mock", protocol: "native", program: MOCK, backends: ["cpu", "cuda"],
      args: ["worker", "--slots", "{parallel}", "--heartbeat-interval", "200ms"], args_allow: ["--load-ms"],
    };
    const files = [mock, ...kinds].map(async (kind, at) => {
      const file = join(stage.folder, `kind-${at}.json`);
      await writeFile(file, JSON.stringify(kind));
      return ["--kind-file", file];
    });
    stage.env = {
      PATH: "/usr/bin:/bin", HOME: stage.folder, RBEE_HIVE_NVML_LIBRARY: "/nowhere", RBEE_HIVE_NVIDIA_SMI: smi,
      ...(hub ? { HF_ENDPOINT: hub } : { HF_HUB_OFFLINE: "1" }), ...(token ? { RBEE_HIVE_TOKEN: token } : {}),
    };
    const first = await freePort();
    stage.port = await freePort();
    stage.args = ["serve", "--bind", `127.0.0.1:${stage.port}`, "--hive-id", hiveId, "--data-dir", join(stage.folder, "data"),
      "--model-dir", stage.models, "--worker-ports", `${first}-${first + 199}`, "--shutdown-timeout", "5s",
      ...(await Promise.all(files)).flat(), ...args];
    await stage.startHive();
    return stage;
  }

  async startHive() {
    this.hive = await Program.start(join(PROGRAMS, "rbee-hive"), this.args, this.env);
    this.url = this.hive.url;
  }

  /** Another program of rbee-mock; gives its URL. */
  static async mock(...args) {
    return Program.start(MOCK, args, { PATH: "/usr/bin:/bin" });
  }

  async ask(method, path, body) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    const answer = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    if (!answer.ok && answer.status !== 404) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
    return text.startsWith("{") ? JSON.parse(text) : text;
  }

  /** A model file: all that rbee-mock looks at. */
  async model(name) {
    const path = join(this.models, name);
    // A worker may be reading it already.
    await writeFile(path, "GGUF", { flag: "wx" }).catch(() => {});
    return `file:${path}`;
  }

  /** The same as `huggingface_hub` would have fetched it. */
  async cached(repository) {
    const folder = join(this.models, `models--${repository.replace("/", "--")}`);
    const commit = "0".repeat(40);
    await mkdir(join(folder, "snapshots", commit), { recursive: true });
    await mkdir(join(folder, "refs"));
    await writeFile(join(folder, "refs/main"), commit);
    await writeFile(join(folder, "snapshots", commit, "model-Q4_K_M.gguf"), "GGUF");
    return `hf:${repository}`;
  }

  async spawn(more = {}) {
    const model_ref = more.model_ref ?? (await this.model("tiny.gguf"));
    const body = { kind: "mock", device: "cpu", memory_bytes: 64 * MIB, ...more, model_ref };
    return (await this.ask("POST", "/v1/workers/spawn", body)).worker_id;
  }

  worker(id) {
    return this.ask("GET", `/v1/workers/${id}`);
  }

  until(id, state) {
    return eventually(`${id} is ${state}`, async () => (await this.worker(id)).state === state);
  }

  /** Fills slots of a worker for so long. Answered when that is over, or the worker is. */
  async work(id, ms) {
    const { url } = await this.worker(id);
    await fetch(`${url}/v1/completions`, { method: "POST", body: JSON.stringify({ prompt: "a b", ms }) }).catch(() => {});
  }

  async close() {
    await this.hive.end();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Chromium as a visitor has it, with an empty profile. */
export function openBrowser() {
  return chromium.launch({ executablePath: process.env.RBEE_CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
}

/** What axe finds serious or critical. */
export async function findings(tab) {
  await tab.evaluate(AXE);
  const { violations, passes } = await tab.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  if (passes.length < 10) throw new Error("axe looked at nothing");
  const said = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html).join(" ").slice(0, 300)}`);
  console.log(`  axe: ${passes.length} rules pass, ${said.length} do not${said.map((text) => `\n    ${text}`).join("")}`);
  return said.filter((text) => /^(serious|critical)/.test(text));
}

/** A tab on the page, which notes what the browser complains of. */
export async function visit(browser, stage, { token = stage.token, ...looks } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...looks });
  context.setDefaultTimeout(PATIENCE_MS);
  const tab = await context.newPage();
  tab.complaints = [];
  tab.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) tab.complaints.push(message.text());
  });
  tab.on("pageerror", (error) => tab.complaints.push(String(error)));
  tab.on("dialog", (dialog) => {
    tab.complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await tab.goto(stage.url);
  if (token) {
    await tab.getByLabel("API token").fill(token);
    await tab.keyboard.press("Enter");
  }
  return tab;
}

export const row = (tab, id) => tab.locator("#workers tr", { has: tab.locator("code", { hasText: new RegExp(`^${id}$`) }) });
