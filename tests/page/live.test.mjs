// What happens in a hive is seen on its page as it happens, and a person can act on it with the keyboard alone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { MIB, Stage, eventually, openBrowser, row, visit } from "./stage.mjs";

let [browser, open, locked] = [];
before(async () => {
  browser = await openBrowser();
  open = await Stage.open();
  locked = await Stage.open({ token: "swarm-secret" });
});
after(async () => {
  await browser.close();
  await Promise.all([open.close(), locked.close()]);
});

/** Presses Tab until what has the focus is called so. */
async function tabTo(tab, name) {
  for (let presses = 0; presses < 200; presses += 1) {
    await tab.keyboard.press("Tab");
    const focused = await tab.evaluate(() => document.activeElement.ariaLabel ?? document.activeElement.textContent);
    if (focused === name) return;
  }
  assert.fail(`the Tab key never comes to ${name}`);
}

test("a worker appears, becomes ready and busy, and vanishes with its reason, without a reload", async () => {
  const tab = await visit(browser, open);
  await tab.getByText("None run here.").waitFor();
  const id = await open.spawn({ parallel: 2, extra_args: ["--load-ms", "1500"] });
  await row(tab, id).getByText("loading").waitFor();
  await row(tab, id).getByText("ready").waitFor();
  await row(tab, id).getByText("0 / 2").waitFor();
  const work = [open.work(id, 3000), open.work(id, 3000)];
  await row(tab, id).getByText("busy").waitFor();
  await row(tab, id).getByText("2 / 2").waitFor();
  await Promise.all(work);
  await row(tab, id).getByText("ready").waitFor();
  await tab.locator("#news", { hasText: `Worker ${id} is ready.` }).waitFor({ state: "attached" });
  await open.ask("DELETE", `/v1/workers/${id}`);
  await row(tab, id).waitFor({ state: "detached" });
  await tab.locator("#ended li", { hasText: id }).getByText("was stopped on request").waitFor();
  assert.deepEqual(tab.complaints, []);
});

test("a worker that crashes shows what became of its last run, and how often it was restarted", async () => {
  const tab = await visit(browser, open);
  const id = await open.spawn({ env: { MOCK_FAULTS: "crash-at-start=7" } });
  await row(tab, id).getByText("backoff").waitFor();
  await row(tab, id).getByText("The last run exited by itself (exit code 7)").waitFor();
  await open.ask("DELETE", `/v1/workers/${id}`);
  await tab.locator("#ended li", { hasText: id }).waitFor();
  assert.deepEqual(tab.complaints, []);
});

test("with the keyboard alone a worker is stopped, after a question that can be answered with no", async () => {
  const tab = await visit(browser, open);
  const id = await open.spawn();
  await row(tab, id).getByText("ready").waitFor();
  await tabTo(tab, `Stop: ${id}`);
  await tab.keyboard.press("Enter");
  const dialog = tab.getByRole("dialog", { name: `Stop ${id}?` });
  await dialog.waitFor();
  await tab.keyboard.press("Escape");
  await dialog.waitFor({ state: "hidden" });
  assert.equal(await tab.evaluate(() => document.activeElement.ariaLabel), `Stop: ${id}`, "where it was opened");
  assert.equal((await open.worker(id)).state, "ready", "no is no");
  await tab.keyboard.press("Enter");
  await tabTo(tab, "Stop worker");
  await tab.keyboard.press("Enter");
  await row(tab, id).waitFor({ state: "detached" });
  await tab.locator("#ended li", { hasText: id }).getByText("was stopped on request").waitFor();
  await eventually("the focus is not lost with the row", () =>
    tab.evaluate(() => document.activeElement.textContent === "Workers"));
  assert.deepEqual(tab.complaints, []);
});

test("a worker is killed at once where the box is ticked", async () => {
  const tab = await visit(browser, open);
  const id = await open.spawn({ env: { MOCK_FAULTS: "ignore-term,ignore-shutdown" } });
  await row(tab, id).getByText("ready").waitFor();
  await row(tab, id).getByRole("button", { name: "Stop" }).click();
  await tab.getByLabel("Kill it at once").check();
  await tab.getByRole("button", { name: "Stop worker" }).click();
  await tab.locator("#ended li", { hasText: id }).getByText("SIGKILL").waitFor();
  assert.deepEqual(tab.complaints, []);
});

test("focus stays where it is while rows come, change and go around it", async () => {
  const tab = await visit(browser, open);
  const kept = await open.spawn();
  await row(tab, kept).getByText("ready").waitFor();
  await row(tab, kept).getByRole("button", { name: "Log" }).focus();
  const others = await Promise.all([1, 2, 3, 4, 5, 6].map(() => open.spawn()));
  for (const id of others) await row(tab, id).getByText("ready").waitFor();
  for (const id of others) await open.ask("DELETE", `/v1/workers/${id}`);
  for (const id of others) await row(tab, id).waitFor({ state: "detached" });
  assert.equal(await tab.evaluate(() => document.activeElement.ariaLabel), `Log: ${kept}`);
  await open.ask("DELETE", `/v1/workers/${kept}`);
  assert.deepEqual(tab.complaints, []);
});

test("a log is shown after a warning, and goes on as it is written", async () => {
  const tab = await visit(browser, open);
  const id = await open.spawn({ env: { MOCK_FAULTS: "flood=3000" } });
  await row(tab, id).getByText("ready").waitFor();
  await row(tab, id).getByRole("button", { name: "Log" }).click();
  await tab.getByText("what users of this worker asked").waitFor();
  assert.equal(await tab.locator("#log-lines").textContent(), "", "nothing before the warning is accepted");
  await tab.getByRole("button", { name: "Show log" }).click();
  const lines = tab.locator("#log-lines");
  await lines.getByText("worker listening on").waitFor();
  await lines.getByText("flood line=2999").waitFor();
  await open.ask("DELETE", `/v1/workers/${id}`);
  await lines.getByText("exiting on=POST /v1/shutdown").waitFor();
  await tab.getByText("The log is at its end.").waitFor();
  await tab.keyboard.press("Escape");
  await eventually("a closed log is not kept", async () => (await lines.textContent()) === "");
  // Its log is there for a while after it.
  await tab.locator("#ended li", { hasText: id }).getByRole("button", { name: "Log" }).click();
  await tab.getByRole("button", { name: "Show log" }).click();
  await lines.getByText("exiting on=POST /v1/shutdown").waitFor();
  assert.deepEqual(tab.complaints, []);
});

test("a download shows its progress, speed and rest, and its end", async () => {
  const { mkdir, mkdtemp, rm, writeFile } = await import("node:fs/promises");
  const shelf = await mkdtemp("/tmp/rbee-page-hub-");
  await mkdir(`${shelf}/org/tiny`, { recursive: true });
  await writeFile(`${shelf}/org/tiny/tiny-Q8_0.gguf`, Buffer.concat([Buffer.from("GGUF"), Buffer.alloc(3 * MIB)]));
  const hub = await Stage.mock("hub", shelf, "--bind", "127.0.0.1:0", "--rate", "300000");
  const stage = await Stage.open({ hub: hub.url });
  const tab = await visit(browser, stage);
  await tab.getByText("None run here.").waitFor();
  const id = await stage.spawn({ model_ref: "hf:org/tiny", memory_bytes: MIB });
  const download = tab.locator("#downloads li", { hasText: "hf:org/tiny" });
  await download.getByText(/MiB of 3.0 MiB · \d+\.\d Mbit\/s · .+ (left|done) · for 1 worker/).waitFor();
  await row(tab, id).getByText(/provisioning \d+ %/).waitFor();
  const bar = tab.getByRole("progressbar", { name: "hf:org/tiny · tiny-Q8_0.gguf" });
  const seen = await bar.evaluate((bar) => bar.value);
  await eventually("it goes on", async () => (await bar.evaluate((bar) => bar.value)) > seen);
  await download.getByText("Complete.").waitFor();
  await row(tab, id).getByText("ready").waitFor();
  assert.deepEqual(tab.complaints, []);
  await stage.close();
  await hub.end();
  await rm(shelf, { recursive: true });
});

test("a locked hive shows nothing without its token, keeps it in the tab, and forgets it", async () => {
  const id = await locked.spawn();
  await locked.until(id, "ready");
  const tab = await visit(browser, locked, { token: null });
  await tab.getByRole("heading", { name: "This hive wants a token" }).waitFor();
  assert.ok(!(await tab.locator("body").textContent()).includes(id));
  assert.equal(await tab.evaluate(() => document.activeElement.id), "token", "one can type at once");
  await tab.keyboard.type("wrong-secret");
  await tab.keyboard.press("Enter");
  await tab.getByText("The token is not valid.").waitFor();
  await tab.keyboard.type("tökèn");
  await tab.keyboard.press("Enter");
  await tab.getByText("A token consists of visible ASCII characters").waitFor();
  await tab.getByLabel("API token").fill(locked.token);
  await tab.keyboard.press("Enter");
  await row(tab, id).getByText("ready").waitFor();
  await tab.reload();
  await row(tab, id).getByText("ready").waitFor();
  const other = await tab.context().newPage();
  await other.goto(locked.url);
  await other.getByRole("heading", { name: "This hive wants a token" }).waitFor();
  await tab.getByRole("button", { name: "Forget token" }).click();
  await tab.getByRole("heading", { name: "This hive wants a token" }).waitFor();
  assert.ok(!(await tab.locator("body").textContent()).includes(id), "what was seen with it goes with it");
  assert.equal(await tab.evaluate(() => sessionStorage.length + localStorage.length + document.cookie.length), 0);
  await tab.reload();
  await tab.getByRole("heading", { name: "This hive wants a token" }).waitFor();
  // The browser itself notes each 401; nothing else.
  assert.deepEqual(tab.complaints.filter((text) => !text.includes("401 (Unauthorized)")), []);
});
