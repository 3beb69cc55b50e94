// Texts that others choose stay texts: a worker's log, a model's name, the message of a failure.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { openBrowser, row, Stage, visit } from "./stage.mjs";

const MARKUP = `<img src=x onerror=alert(1)><script>alert(2)</script><style>*{display:none}</style>`;
const QUOTES = `"'\`\${alert(3)}</pre></table>&lt;b&gt;`;
// Also what a terminal would obey, text that turns around, and bytes that are no text.
const LOG = [`${"long ".repeat(20_000)}end`, MARKUP, QUOTES, "data: [DONE]", "[DONE]", "id: 5", "\u001b]0;title\u0007\u001b[31mred", "\u202Egnp.exe"];

let [browser, stage] = [];
before(async () => {
  browser = await openBrowser();
  const script = `${LOG.map((line) => `printf '%s\\n' '${line.replaceAll("'", "'\\''")}'`).join("\n")}\nprintf '\\377\\n'\nexit 9`;
  const hostile = { kind: "hostile", protocol: "probe", program: "/bin/sh", args: ["-c", script], backends: ["cpu"],
    probe: { path: "/health" } };
  stage = await Stage.open({ kinds: [hostile], args: ["--restart-limit", "0"] });
});
after(async () => {
  await browser.close();
  await stage.close();
});

async function nothingRan(tab) {
  assert.equal(await tab.locator("main img, main script, main style, dialog img, dialog script, dialog style").count(), 0);
  assert.equal(await tab.locator("#shown").isVisible(), true);
  assert.deepEqual(tab.complaints, []);
}

test("a model whose name is markup is shown by that name", async () => {
  const tab = await visit(browser, stage);
  await tab.getByText("None run here.").waitFor();
  const name = `<img src=x onerror=alert(1)>${QUOTES.replaceAll("/", "")}.gguf`;
  const id = await stage.spawn({ model_ref: await stage.model(name) });
  await row(tab, id).getByText("ready").waitFor();
  assert.ok((await row(tab, id).locator(".model").textContent()).endsWith(name));
  await row(tab, id).getByRole("button", { name: "Stop" }).click();
  assert.ok((await tab.locator("#stop-text").textContent()).includes(name));
  await tab.getByRole("button", { name: "Stop worker" }).click();
  await tab.locator("#ended li", { hasText: name }).waitFor();
  await nothingRan(tab);
});

test("a log of markup, of what looks like events, and of one endless line is shown as it is", async () => {
  const tab = await visit(browser, stage);
  await tab.getByText("None run here.").waitFor();
  const id = await stage.spawn({ kind: "hostile" });
  const ended = tab.locator("#ended li", { hasText: id });
  await ended.getByText("exited by itself (exit code 9)").waitFor();
  await ended.getByText("Last lines").click();
  await ended.locator("pre", { hasText: MARKUP }).waitFor();
  await ended.getByRole("button", { name: "Log" }).click();
  await tab.getByRole("button", { name: "Show log" }).click();
  await tab.getByText("The log is at its end.").waitFor();
  const lines = tab.locator("#log-lines");
  await lines.getByText("\uFFFD").waitFor();
  const text = await lines.textContent();
  for (const line of LOG.slice(1)) assert.ok(text.split("\n").includes(line), `${JSON.stringify(line)} in ${text.slice(0, 600)}`);
  assert.ok(text.includes("long long") && text.length < 10_000, "a line that would fill the page is cut");
  await nothingRan(tab);
});

test("the browser itself forbids the page to run or fetch what is not its own", async () => {
  const tab = await visit(browser, stage);
  await tab.getByText("None run here.").waitFor();
  const refused = await tab.evaluate(async () => {
    const seen = [];
    document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
    const tries = {
      markup: () => (document.body.innerHTML += "<b>x</b>"),
      script: () => document.body.append(Object.assign(document.createElement("script"), { text: "window.ran = 1" })),
    };
    const thrown = Object.entries(tries).filter(([, attempt]) => {
      try {
        attempt();
        return false;
      } catch {
        return true;
      }
    });
    const elsewhere = await fetch("http://localhost:1/").then(() => false, () => true);
    const image = Object.assign(document.createElement("img"), { src: "/health" });
    document.body.append(image);
    await new Promise((go) => (image.onerror = go));
    return { thrown: thrown.map(([name]) => name), elsewhere, ran: window.ran ?? null, seen };
  });
  assert.deepEqual(refused.thrown, ["markup", "script"]);
  assert.ok(refused.elsewhere && refused.ran === null);
  assert.ok(["connect-src", "img-src", "require-trusted-types-for"].every((rule) => refused.seen.includes(rule)), String(refused.seen));
});

test("no other site may put the page into a frame", async () => {
  const context = await browser.newContext();
  const tab = await context.newPage();
  const refusals = [];
  tab.on("console", (message) => refusals.push(message.text()));
  await tab.setContent(`<iframe src="${stage.url}"></iframe>`);
  await tab.waitForFunction(() => true);
  const until = Date.now() + 30_000;
  while (!refusals.some((text) => text.includes("frame-ancestors")) && Date.now() < until) await tab.waitForTimeout(20);
  assert.ok(refusals.some((text) => text.includes("frame-ancestors")), String(refusals));
});
