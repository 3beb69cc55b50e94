// A hive that dies, hangs or comes back: the page says so, and shows nothing old as if it were new.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { eventually, findings, openBrowser, row, SHOTS, Stage, visit } from "./stage.mjs";

let browser;
before(async () => (browser = await openBrowser()));
after(() => browser.close());

/** What the browser itself notes of connections that break. */
const strange = (tab) => tab.complaints.filter((text) => !/net::ERR_|Failed to load resource/.test(text));

test("a hive that is killed is reported lost, and found again with its worker when it is back", async () => {
  const stage = await Stage.open();
  const id = await stage.spawn();
  const tab = await visit(browser, stage);
  await row(tab, id).getByText("ready").waitFor();
  await tab.getByText("live", { exact: true }).waitFor();
  await stage.hive.end("SIGKILL");
  const alert = tab.getByRole("alert").filter({ hasText: "This page lost the hive" });
  await alert.getByText(/nothing was heard of it since \d\d:\d\d:\d\d\. What is shown is as it was then/).waitFor();
  await tab.getByText("not connected").waitFor();
  await tab.getByText(/Next try in \d+ s|Trying again/).waitFor();
  assert.match(await tab.title(), /^lost: /);
  assert.ok(await row(tab, id).isVisible(), "what was known stays");
  await tab.screenshot({ path: join(SHOTS, "lost.png") });
  assert.deepEqual(await findings(tab), []);
  // A question that cannot be answered now says so.
  await row(tab, id).getByRole("button", { name: "Stop" }).click();
  await tab.getByRole("button", { name: "Stop worker" }).click();
  await tab.getByText("The hive does not answer.").waitFor();
  await tab.getByRole("button", { name: "Cancel" }).click();
  await stage.startHive();
  await tab.getByRole("button", { name: "Try now" }).click().catch(() => {});
  await tab.getByText("live", { exact: true }).waitFor();
  await alert.waitFor({ state: "hidden" });
  assert.ok(!(await tab.title()).startsWith("lost"));
  await row(tab, id).getByText("ready").waitFor();
  const another = await stage.spawn();
  await row(tab, another).getByText("ready").waitFor();
  assert.deepEqual(strange(tab), []);
  await stage.close();
});

test("workers that ended while the hive was away are gone when it is back", async () => {
  const stage = await Stage.open({ args: ["--orphans", "kill"] });
  const id = await stage.spawn();
  const tab = await visit(browser, stage);
  await row(tab, id).getByText("ready").waitFor();
  await stage.hive.end("SIGKILL");
  await tab.getByText("not connected").waitFor();
  await stage.startHive();
  await tab.getByText("live", { exact: true }).waitFor();
  await row(tab, id).waitFor({ state: "detached" });
  assert.deepEqual(strange(tab), []);
  await stage.close();
});

test("a hive that is drained, and one that ends, say so before they are gone", async () => {
  const stage = await Stage.open();
  const id = await stage.spawn({ env: { MOCK_FAULTS: "slow-exit=2s" } });
  const tab = await visit(browser, stage);
  await row(tab, id).getByText("ready").waitFor();
  await stage.ask("POST", "/v1/drain", { drain: true });
  await tab.locator("#status", { hasText: "draining" }).waitFor();
  await tab.getByText("It is drained: its workers serve, and it takes no new ones.").waitFor();
  await stage.ask("POST", "/v1/shutdown", {});
  await tab.locator("#status", { hasText: "stopping" }).waitFor();
  await row(tab, id).getByText("stopping").waitFor();
  await tab.getByText("not connected").waitFor();
  assert.deepEqual(strange(tab), []);
  await stage.close();
});

test("a hive that stands still is lost after some seconds of silence", { timeout: 120_000 }, async () => {
  const stage = await Stage.open();
  const tab = await visit(browser, stage);
  await tab.getByText("None run here.").waitFor();
  stage.hive.child.kill("SIGSTOP");
  await tab.getByText(/live, figures of \d\d:\d\d:\d\d/).waitFor();
  await tab.getByText("not connected").waitFor();
  stage.hive.child.kill("SIGCONT");
  await tab.getByText("live", { exact: true }).waitFor();
  assert.deepEqual(strange(tab), []);
  await stage.close();
});

test("a page that nobody looks at holds no connection, and misses nothing that ended meanwhile", async () => {
  const stage = await Stage.open();
  const id = await stage.spawn();
  const tab = await visit(browser, stage);
  await row(tab, id).getByText("ready").waitFor();
  const look = (hidden) => tab.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
  const ended = tab.waitForEvent("requestfailed", (request) => request.url().endsWith("/v1/events"));
  await look(true);
  await ended;
  const asked = [];
  tab.on("request", (request) => asked.push(request.url()));
  await stage.ask("DELETE", `/v1/workers/${id}`);
  await eventually("the worker is gone", async () => (await stage.worker(id)).error);
  assert.deepEqual(asked, [], "it asks for nothing");
  await look(false);
  await row(tab, id).waitFor({ state: "detached" });
  await tab.locator("#ended li", { hasText: id }).getByText("was stopped on request").waitFor();
  assert.deepEqual(strange(tab), []);
  await stage.close();
});

test("a hive that follows no more readers says so, and shows what it is asked for until it does", async () => {
  // Half of the connections are for streams.
  const stage = await Stage.open({ args: ["--max-connections", "8"] });
  const others = new AbortController();
  for (let number = 0; number < 4; number += 1) await fetch(`${stage.url}/v1/events`, { signal: others.signal });
  const id = await stage.spawn();
  const tab = await visit(browser, stage);
  await tab.getByText("The hive refuses to be followed: Too many event streams.").waitFor();
  await row(tab, id).getByText("ready").waitFor();
  others.abort();
  await tab.getByText("live", { exact: true }).waitFor();
  assert.deepEqual(strange(tab), []);
  await stage.close();
});

test("from where too many wrong tokens came, the page tells how long the hive does not listen", async () => {
  const stage = await Stage.open({ token: "swarm-secret" });
  const tab = await visit(browser, stage, { token: null });
  await tab.getByLabel("API token").waitFor();
  for (let number = 0; number < 20; number += 1) {
    await fetch(`${stage.url}/v1/devices`, { headers: { Authorization: "Bearer guess" } });
  }
  await tab.getByLabel("API token").fill(stage.token);
  await tab.keyboard.press("Enter");
  await tab.getByText(/Too many wrong tokens came from this address: it is listened to again in \d+ s/).waitFor();
  assert.deepEqual(strange(tab), []);
  await stage.close();
});
