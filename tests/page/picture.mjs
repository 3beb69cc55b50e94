// Pictures of the page: light, dark, 400 px wide, and the one of the README (docs/page.png).
//
//     node tests/page/picture.mjs

import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { GIB, MIB, SHOTS, Stage, eventually, openBrowser, visit } from "./stage.mjs";

const cards = [
  { name: "NVIDIA H200", total: 143_771, free: 65_203, busy: 71, celsius: 58 },
  { name: "NVIDIA H200", total: 143_771, free: 142_900, busy: 0, celsius: 34 },
];
const queen = await Stage.mock("queen", "--bind", "127.0.0.1:0");
const shelf = join(SHOTS, "hub/Qwen/Qwen3-32B-GGUF");
await mkdir(shelf, { recursive: true });
await writeFile(join(shelf, "Qwen3-32B-Q4_K_M.gguf"), Buffer.concat([Buffer.from("GGUF"), Buffer.alloc(48 * MIB)]));
const hub = await Stage.mock("hub", join(SHOTS, "hub"), "--bind", "127.0.0.1:0", "--rate", "700000");
const stage = await Stage.open({ cards, hub: hub.url, hiveId: "gpu-07", args: ["--queen-url", queen.url, "--restart-limit", "9"] });
const browser = await openBrowser();
try {
  const [llama, small, embed] = await Promise.all(
    ["unsloth/Llama-3.3-70B-Instruct-GGUF", "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF", "nomic-ai/nomic-embed-text-v1.5-GGUF"]
      .map((repository) => stage.cached(repository)));
  const busy = await stage.spawn({ model_ref: llama, device: "gpu0", parallel: 4, memory_bytes: 48 * GIB });
  const half = await stage.spawn({ model_ref: llama, device: "gpu0", parallel: 8, memory_bytes: 4 * GIB });
  await stage.spawn({ model_ref: small, parallel: 2, memory_bytes: 512 * MIB });
  await stage.spawn({ model_ref: embed, device: "gpu1", memory_bytes: 30 * GIB, extra_args: ["--load-ms", "600000"] });
  const tab = await visit(browser, stage);
  const ends = await stage.spawn({ model_ref: small });
  await stage.spawn({ model_ref: small, env: { MOCK_FAULTS: "crash-at-start=3" } });
  await stage.until(busy, "ready");
  await stage.until(half, "ready");
  await stage.until(ends, "ready");
  await stage.ask("DELETE", `/v1/workers/${ends}`);
  for (let slot = 0; slot < 4; slot += 1) stage.work(busy, 60_000);
  for (let slot = 0; slot < 3; slot += 1) stage.work(half, 60_000);
  await stage.ask("POST", "/v1/models/download", { model_ref: "hf:Qwen/Qwen3-32B-GGUF" });
  await tab.locator("#downloads li", { hasText: "Mbit/s" }).waitFor();
  await tab.locator("#workers .state.busy").waitFor();
  await eventually("a download moves", async () => (await tab.locator("progress").evaluate((bar) => bar.value)) > 0.2);
  await tab.locator("#ended li").first().waitFor();
  await eventually("all memory was looked at", async () => (await tab.locator("#workers").getByText("resident").count()) >= 4);
  for (const [name, looks] of [["light", {}], ["dark", { colorScheme: "dark" }]]) {
    await tab.emulateMedia(looks);
    await tab.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
  }
  await tab.emulateMedia({ colorScheme: "light" });
  await tab.setViewportSize({ width: 1120, height: 700 });
  await tab.screenshot({ path: "docs/page.png", fullPage: true });
  await tab.setViewportSize({ width: 400, height: 860 });
  await tab.screenshot({ path: join(SHOTS, "narrow.png"), fullPage: true });
  console.log(tab.complaints);
} finally {
  await browser.close();
  await stage.close();
  await hub.end();
  await queen.end();
  await rm(join(SHOTS, "hub"), { recursive: true });
}
