// How the page looks and reads: for who sees little, on a narrow screen, in the dark, with 64 workers.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { findings, openBrowser, row, SHOTS, Stage, visit } from "./stage.mjs";

const LOOKS = {
  light: {},
  dark: { colorScheme: "dark" },
  narrow: { viewport: { width: 400, height: 800 } },
  "narrow and dark": { viewport: { width: 400, height: 800 }, colorScheme: "dark" },
  still: { reducedMotion: "reduce" },
  "high contrast": { forcedColors: "active" },
};

let [browser, open, locked, workers] = [];
before(async () => {
  await mkdir(SHOTS, { recursive: true });
  browser = await openBrowser();
  open = await Stage.open({ cards: [{ name: "NVIDIA H200", total: 143_771, free: 61_203, busy: 71, celsius: 58 }], args: ["--restart-limit", "99"] });
  locked = await Stage.open({ token: "swarm-secret" });
  const kinds = [{}, { device: "gpu0", parallel: 4 }, { extra_args: ["--load-ms", "600000"] }, { env: { MOCK_FAULTS: "crash-at-start" } }];
  workers = [];
  for (const kind of kinds) workers.push(await open.spawn(kind));
  await open.until(workers[0], "ready");
});
after(async () => {
  await browser.close();
  await Promise.all([open.close(), locked.close()]);
});

async function fits(tab) {
  const [inner, outer] = await tab.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${inner} px of content in ${outer}`);
}

for (const [name, looks] of Object.entries(LOOKS)) {
  test(`${name}: axe finds nothing serious on the page, in its dialogs and in its form, and nothing is too wide`, async () => {
    const tab = await visit(browser, open, looks);
    const shoot = (what) => tab.screenshot({ path: join(SHOTS, `${name.replaceAll(" ", "-")}-${what}.png`), fullPage: what === "page" });
    await row(tab, workers[3]).getByText("backoff").waitFor();
    // A pixel of the middle of a transition is nobody's colour.
    await tab.evaluate(() => Promise.all(document.getAnimations().map((animation) => animation.finished)));
    assert.deepEqual(await findings(tab), []);
    await fits(tab);
    await shoot("page");
    await row(tab, workers[0]).getByRole("button", { name: "Stop" }).click();
    assert.deepEqual(await findings(tab), []);
    await fits(tab);
    await shoot("stop");
    await tab.getByRole("button", { name: "Cancel" }).click();
    await row(tab, workers[0]).getByRole("button", { name: "Log" }).click();
    await shoot("ask");
    await tab.getByRole("button", { name: "Show log" }).click();
    await tab.locator("#log-lines").getByText("worker listening on").waitFor();
    assert.deepEqual(await findings(tab), []);
    await fits(tab);
    await shoot("log");
    assert.deepEqual(tab.complaints, []);
    await tab.context().close();

    const form = await visit(browser, locked, { ...looks, token: null });
    await form.getByLabel("API token").waitFor();
    assert.deepEqual(await findings(form), []);
    await fits(form);
    await form.screenshot({ path: join(SHOTS, `${name.replaceAll(" ", "-")}-form.png`) });
    await form.context().close();
  });
}

test("a reader of screens hears what each part is, and what a cell belongs to", async () => {
  for (const viewport of [{ width: 1280, height: 800 }, { width: 400, height: 800 }]) {
    const tab = await visit(browser, open, { viewport });
    await tab.getByRole("banner").getByRole("heading", { level: 1, name: "page" }).waitFor();
    await tab.getByRole("main").getByRole("region", { name: "Devices" }).getByRole("heading", { level: 3, name: "gpu0" }).waitFor();
    const table = tab.getByRole("table", { name: "Workers" });
    await table.getByRole("rowheader", { name: workers[0] }).waitFor();
    const columns = await table.getByRole("columnheader").count();
    assert.equal(await row(tab, workers[0]).getByRole("cell").count(), columns - 1);
    const used = tab.getByRole("listitem").filter({ hasText: "gpu0" });
    assert.match(await used.textContent(), /gpu0 NVIDIA H200 140 GiB in all.*Used80\.6 GiB.*Free59\.8 GiB/, "the bar is told in words");
    await tab.context().close();
  }
});

test("64 workers are shown, none is too wide, and colours are never all that tells a state", async () => {
  const many = await Stage.open();
  const ids = [];
  for (let number = 0; number < 64; number += 1) ids.push(await many.spawn({ memory_bytes: 1 << 20 }));
  for (const looks of [LOOKS.light, LOOKS.narrow]) {
    const tab = await visit(browser, many, looks);
    await tab.getByText("64 ready").waitFor({ timeout: 120_000 });
    assert.equal(await tab.locator("#workers tr").count(), 64);
    const told = await tab.locator("#workers tr .state").allTextContents();
    assert.ok(told.every((text) => text === "ready"));
    await fits(tab);
    assert.deepEqual(await findings(tab), []);
    await tab.screenshot({ path: join(SHOTS, `64-${looks.viewport ? "narrow" : "wide"}.png`), fullPage: true });
    assert.deepEqual(tab.complaints, []);
    await tab.context().close();
  }
  await many.close();
});
