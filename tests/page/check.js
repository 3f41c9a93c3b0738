"use strict";
// What a person sees on the page. Arguments: its URL, the drafter's address, Chromium, a folder for
// screenshots.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");
const answers = require("./answers.js");

const [url, drafter, executablePath, screenshots] = process.argv.slice(2);
const AXE = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const ARGS = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const PROMPT = "Once upon a time there was a little girl who";
const SECONDS = 60_000;

// Fills the form in and sends it.
async function send(page, settings = {}) {
  const fields = { text: PROMPT, max_new_tokens: "60", temperature: "", seed: "", policy: "", target_agreement: "", ...settings };
  for (const [name, value] of Object.entries(fields)) await page.fill(`[name=${name}]`, value);
  await page.click("#send");
}

async function ended(page, how) {
  await page.waitForFunction(
    (how) => document.getElementById("status").textContent.startsWith(how), how, { timeout: SECONDS },
  );
  return page.textContent("#status");
}

const texts = (page, selector) => page.locator(selector).allTextContents();
const count = (page, selector) => page.locator(selector).count();
const style = (page, selector) => page.locator(selector).first().evaluate((element) => {
  const { backgroundColor, textDecorationLine, textDecorationStyle } = getComputedStyle(element);
  return { backgroundColor, line: `${textDecorationLine} ${textDecorationStyle}` };
});

// The tokens of an answer, by the call that the page makes.
async function answer(page, request) {
  const response = await page.request.post(`${url}api/generate`, { data: request });
  const messages = (await response.text()).trim().split("\n").map((line) => JSON.parse(line));
  return messages.flatMap((message) => message.tokens?.pieces ?? []);
}

async function showsAGeneration(page) {
  await send(page);
  const status = await ended(page, "finished");
  assert.match(status, /^finished \(length\): 60 tokens in \d+ rounds; \d+ of \d+ drafted tokens accepted$/);
  const shown = await texts(page, "#text .token");
  const expected = await answer(page, { text: PROMPT, max_new_tokens: 60 });
  assert.deepEqual(shown, expected.map((piece) => piece.text));
  for (const kind of ["accepted", "correction", "plain"]) {
    assert.ok(await count(page, `#text .${kind}`) > 0, `no token is ${kind}`);
  }
  const rounds = Number(status.match(/in (\d+) rounds/)[1]);
  assert.equal(await count(page, "#rounds .round"), rounds);
  const accepted = await count(page, "#rounds .taken");
  assert.equal(accepted, await count(page, "#text .accepted"));
  assert.ok(await count(page, "#rounds .refused") > 0);
  assert.match(await page.textContent("#acceptance"), new RegExp(`^\\d+ % \\(${accepted} of \\d+\\)$`));
  assert.ok(Number(await page.textContent("#speed")) > 0);
  assert.equal(await page.textContent("#count"), "60");
}

async function kindsDifferByColourAndByLine(page) {
  const styles = [];
  for (const kind of ["accepted", "correction", "plain"]) {
    const shown = await style(page, `#text .${kind}`);
    assert.deepEqual(shown, await style(page, `.legend .${kind}`), "the legend shows the same");
    styles.push(shown);
  }
  assert.equal(new Set(styles.map((shown) => shown.backgroundColor)).size, 3);
  assert.equal(new Set(styles.map((shown) => shown.line)).size, 3);
}

async function tellsOfATokenUnderThePointer(page) {
  await page.locator("#text .accepted").first().hover();
  const tip = page.locator("#tip");
  await tip.waitFor({ state: "visible" });
  assert.match(await tip.innerText(), /^accepted draft\nexit head 0, entropy \d+\.\d{3} nats\ntoken \d+, id \d+, round \d+$/);
  await page.locator("#text .correction").first().hover();
  assert.match(await tip.innerText(), /^(correction: “.*” was drafted\nexit head 0, entropy|the whole model's token after)/);
  await page.mouse.move(0, 0);
  await tip.waitFor({ state: "hidden" });
}

async function tellsOfATokenByKeyboard(page) {
  const tip = page.locator("#tip");
  const told = async () => Number((await tip.innerText()).match(/token (\d+),/)[1]);
  await page.focus("#text");
  await page.keyboard.press("ArrowRight");
  assert.equal(await told(), 0);
  await page.keyboard.press("ArrowRight");
  assert.equal(await told(), 1);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-describedby")), "tip");
  await page.keyboard.press("End");
  assert.equal(await told(), 59);
  await page.keyboard.press("ArrowLeft");
  assert.equal(await told(), 58);
  await page.keyboard.press("Escape");
  await tip.waitFor({ state: "hidden" });
}

async function showsDrafters(page) {
  const shown = page.locator(".drafter.ready");
  await shown.waitFor();
  assert.match(await shown.innerText(), new RegExp(`^${drafter} – ready`));
}

async function cancels(page) {
  await send(page, { max_new_tokens: "900" });
  await page.locator("#text .token").nth(5).waitFor();
  await page.click("#cancel");
  assert.match(await ended(page, "cancelled"), /^cancelled: \d+ tokens in/);
  const tokens = await count(page, "#text .token");
  assert.ok(tokens > 0 && tokens < 900, `${tokens} tokens`);
  const load = async () => (await (await page.request.get(`${url}api/server`)).json()).load;
  const limit = Date.now() + SECONDS;
  while ((await load()).running > 0) assert.ok(Date.now() < limit, "the engine goes on");
  await send(page, { max_new_tokens: "5" });
  await ended(page, "finished");
}

const alertText = async (page) => {
  const alert = page.locator("#error");
  await alert.waitFor({ state: "visible" });
  return (await alert.innerText()).replace(/\n+/g, "\n");
};

async function showsWhatIsWrongWithAField(page) {
  for (const [name, value] of [["temperature", "-1"], ["max_new_tokens", "many"], ["seed", "x"], ["policy", "guess"]]) {
    await send(page, { [name]: value });
    await ended(page, "failed");
    const told = await alertText(page);
    assert.ok(told.startsWith("INVALID_ARGUMENT\n"), told);
    assert.ok(told.includes(name), told);
    assert.equal(await page.getAttribute(`[name=${name}]`, "aria-invalid"), "true");
    assert.equal(await page.evaluate(() => document.activeElement.name), name);
  }
  await page.screenshot({ path: path.join(screenshots, "error.png"), fullPage: true });
}

async function tellsWhenToComeAgain(page) {
  await page.route("**/api/generate", answers.noRoom);
  await send(page);
  const told = await alertText(page);
  assert.ok(told.startsWith("RESOURCE_EXHAUSTED\nno room"), told);
  assert.ok(told.includes("Try again in 1.5 s."), told);
}

async function tellsThatTheServerIsGone(page) {
  await page.route("**/api/generate", (route) => route.abort());
  await send(page);
  assert.match(await alertText(page), /^UNAVAILABLE\nthe server cannot be reached/);
  await page.unroute("**/api/generate");
  await page.route("**/api/generate", answers.cutOff);
  await send(page);
  assert.match(await alertText(page), /^UNAVAILABLE\nthe connection ended before the answer did/);
}

async function asksForATokenWhereOneIsNeeded(page) {
  const heard = [];
  await page.route("**/api/*", (route) => {
    heard.push(route.request().headers().authorization);
    return answers.unauthenticated(route);
  });
  await send(page);
  assert.match(await alertText(page), /^UNAUTHENTICATED\n/);
  await page.fill("[name=token]", "a-secret");
  await page.click("#send");
  await page.waitForFunction(() => document.getElementById("send").disabled === false);
  assert.ok(heard.includes("Bearer a-secret"));
  const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]);
  assert.deepEqual(kept, [0, 0, ""]);
}

async function takesNoTextForMarkup(page) {
  await page.route("**/api/generate", answers.markup);
  await send(page);
  await ended(page, "finished");
  assert.deepEqual(await texts(page, "#text .token"), ["<img src=x onerror=\"document.title='taken'\">", ""]);
  assert.equal(await count(page, "#text img"), 0);
  assert.equal(await page.title(), "DSSD");
  await page.locator("#text .correction").hover();
  assert.ok((await page.locator("#tip").innerText()).includes("“<b>⏎</b>” was drafted"));
}

// Screenshots, and what axe-core finds wrong with contrast, names and roles.
async function isLegible(page) {
  for (const [colorScheme, width] of [["light", 1200], ["dark", 1200], ["light", 360], ["dark", 360]]) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.locator("#text .accepted").nth(2).hover();
    await page.locator("#tip").waitFor({ state: "visible" });
    const tip = await page.locator("#tip").boundingBox();
    assert.ok(tip.x >= 0 && tip.x + tip.width <= width, "the tip is in sight");
    assert.ok(tip.width > tip.height, "the tip's lines are lines");
    const name = `${colorScheme}-${width}.png`;
    await page.screenshot({ path: path.join(screenshots, name) });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= width, `at ${width} pixels, the page is ${wide} wide`);
    await page.evaluate(AXE);
    const { violations } = await page.evaluate(() => axe.run(document));
    const found = violations.map(({ help, nodes }) => `${help}: ${nodes.map((node) => node.html).join(" ")}`);
    assert.deepEqual(found, [], name);
  }
}

// Each with a fresh page; those of one list share it.
const CHECKS = [
  [showsAGeneration, kindsDifferByColourAndByLine, tellsOfATokenUnderThePointer, tellsOfATokenByKeyboard,
    showsDrafters, isLegible],
  [cancels],
  [showsWhatIsWrongWithAField],
  [tellsWhenToComeAgain],
  [tellsThatTheServerIsGone],
  [asksForATokenWhereOneIsNeeded],
  [takesNoTextForMarkup],
];

async function main() {
  const browser = await chromium.launch({ executablePath, args: ARGS, chromiumSandbox: false });
  try {
    for (const checks of CHECKS) {
      const page = await browser.newPage();
      page.setDefaultTimeout(SECONDS);
      const faults = [];
      page.on("pageerror", (error) => faults.push(String(error)));
      page.on("console", (message) => {
        if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) faults.push(message.text());
      });
      await page.goto(url);
      for (const check of checks) {
        await check(page);
        assert.deepEqual(faults, [], check.name);
        console.log(`ok: page ${check.name}`);
      }
      await page.close();
    }
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
